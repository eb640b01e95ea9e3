"""The registry's versions and aliases, on a real MLflow store."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from components.platform.mlflow_registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Registry,
    Version,
    promotion_lock,
)
from components.platform.mlflow_runs import client, experiment_id
from gapgate.errors import GateError, RegistryError, TrackingError
from tests.serving.registry_server import RegistryServer

NAME = "animals"


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry()


@pytest.fixture
def register(registry: Registry) -> Callable[..., Version]:
    """A version of a logged model that has no files, of a run of its own."""
    store = client()
    experiment = experiment_id(store, "gapgate")

    def make(verdict: str = "pass", name: str = NAME, digest: str = "sha256:0") -> Version:
        run = store.create_run(experiment).info.run_id
        model = store.create_logged_model(experiment, "model", run)
        return registry.register(name, model.model_id, run, {"gapgate.verdict": verdict, "gapgate.model": digest})

    return make


def champion(registry: Registry) -> str:
    found = registry.champion(NAME)
    return found.version if found else ""


def aliases(registry: Registry) -> dict[str, tuple[str, ...]]:
    """Version → its aliases, where it has any."""
    return {row.version: row.aliases for row in registry.versions(NAME) if row.aliases}


def test_an_unknown_model_has_no_versions_and_no_champion(registry: Registry) -> None:
    assert registry.names() == registry.versions(NAME) == []
    assert registry.champion(NAME) is None
    with pytest.raises(RegistryError, match=r"animals has no version 1 \(known: none\)"):
        registry.find(NAME, "1")


def test_versions_are_counted_from_1_and_listed_newest_first(
    registry: Registry, register: Callable[..., Version]
) -> None:
    made = [register().version for _ in range(11)]
    assert made == [str(number) for number in range(1, 12)]
    assert [row.version for row in registry.versions(NAME)] == made[::-1]
    with pytest.raises(RegistryError, match=r"no version 12 \(known: 11, 10, 9"):
        registry.find(NAME, "12")


def test_a_version_is_found_by_its_run_and_the_digest_of_its_model(
    registry: Registry, register: Callable[..., Version]
) -> None:
    first, second = register(digest="sha256:1"), register(digest="sha256:2")
    found = registry.of_run(NAME, second.run_id, "sha256:2")
    assert found is not None
    assert found.version == second.version
    assert registry.of_run(NAME, second.run_id, "sha256:1") is None
    assert registry.of_run(NAME, first.run_id, "sha256:2") is None


def test_a_completed_version_has_the_tags_and_its_run_the_files(
    registry: Registry, register: Callable[..., Version]
) -> None:
    wanted, files = {"gapgate.model": "sha256:1"}, ["receipt/receipt.json", "package/model.bento"]
    first, second, other = (register(digest=f"sha256:{digest}") for digest in (1, 1, 2))
    for version, file in [(first, files[0]), (first, files[1]), (second, files[0]), (other, files[0])]:
        client().log_dict(version.run_id, {"of": version.version}, file)
    found = registry.completed(NAME, wanted, files)
    assert found is not None
    assert found.version == first.version
    assert registry.read(found, files[0]) == {"of": first.version}
    found = registry.completed(NAME, wanted, files[:1])
    assert found is not None
    assert found.version == second.version
    assert registry.completed(NAME, {"gapgate.model": "sha256:3"}, []) is None


def test_models_do_not_share_versions_or_aliases(registry: Registry, register: Callable[..., Version]) -> None:
    registry.promote(register())
    assert register(name="plants").version == "1"
    assert registry.champion("plants") is None
    assert set(registry.names()) == {NAME, "plants"}


def test_tags_are_added_to_those_of_the_registration(registry: Registry, register: Callable[..., Version]) -> None:
    version = register()
    registry.tag(version, {"gapgate.receipt": "sha256:9"})
    tags = registry.find(NAME, version.version).tags
    assert tags == {"gapgate.verdict": "pass", "gapgate.model": "sha256:0", "gapgate.receipt": "sha256:9"}


def test_promotion_gives_the_alias_and_takes_the_challengers(
    registry: Registry, register: Callable[..., Version]
) -> None:
    first, second = register(), register()
    assert registry.promote(first) is None
    registry.challenge(second)
    assert aliases(registry) == {"1": (CHAMPION,), "2": (CHALLENGER,)}
    assert registry.promote(registry.find(NAME, second.version)) == first.version
    assert aliases(registry) == {"2": (CHAMPION,)}
    assert registry.find(NAME, "2").tags[PREVIOUS] == "1"


def test_promotion_leaves_a_challenger_that_is_another_version(
    registry: Registry, register: Callable[..., Version]
) -> None:
    first, second = register(), register()
    registry.challenge(second)
    registry.promote(registry.find(NAME, first.version))
    assert aliases(registry) == {"1": (CHAMPION,), "2": (CHALLENGER,)}


def test_the_end_of_a_challenge_leaves_no_challenger(registry: Registry, register: Callable[..., Version]) -> None:
    first, second = register(), register()
    registry.challenge(first)
    registry.promote(second, ends_challenge=True)
    assert aliases(registry) == {"2": (CHAMPION,)}


def test_a_version_is_found_by_the_first_characters_of_its_receipt(
    registry: Registry, register: Callable[..., Version]
) -> None:
    first, second = register(), register(name="plants")
    registry.tag(first, {"gapgate.receipt": "sha256:123456aa"})
    registry.tag(second, {"gapgate.receipt": "sha256:123456bb"})
    assert {row.name for row in registry.with_receipt("123456")} == {NAME, "plants"}
    assert [row.receipt for row in registry.with_receipt("123456b")] == ["sha256:123456bb"]
    assert registry.with_receipt("23456") == []


def test_promotion_goes_by_the_aliases_as_they_are_and_not_as_they_were_when_the_version_was_read(
    registry: Registry, register: Callable[..., Version]
) -> None:
    """Another run may challenge meanwhile."""
    first, second = register(), register()
    registry.challenge(first)
    read_as_challenger = registry.find(NAME, first.version)
    registry.challenge(second)
    registry.promote(read_as_challenger)
    assert aliases(registry) == {"1": (CHAMPION,), "2": (CHALLENGER,)}
    registry.promote(second)
    assert aliases(registry) == {"2": (CHAMPION,)}


@pytest.mark.parametrize("verdict", ["fail", "undecided"])
def test_a_version_that_did_not_pass_is_never_promoted(
    registry: Registry, register: Callable[..., Version], verdict: str
) -> None:
    registry.promote(register())
    with pytest.raises(GateError, match=f"animals version 2 has the verdict {verdict}"):
        registry.promote(register(verdict))
    assert aliases(registry) == {"1": (CHAMPION,)}


def test_a_version_without_a_verdict_is_never_promoted(registry: Registry, register: Callable[..., Version]) -> None:
    """As one that something else put into the registry."""
    version = register()
    client().delete_model_version_tag(NAME, version.version, "gapgate.verdict")
    with pytest.raises(GateError, match="has the verdict none"):
        registry.promote(registry.find(NAME, version.version))
    assert aliases(registry) == {}


def test_rollback_goes_back_champion_by_champion(registry: Registry, register: Callable[..., Version]) -> None:
    for _ in range(3):
        registry.promote(register())
    was, now = registry.rollback(NAME)
    assert (was.version, now.version, champion(registry)) == ("3", "2", "2")
    registry.rollback(NAME)
    assert champion(registry) == "1"
    with pytest.raises(RegistryError, match="version 1 is the first champion"):
        registry.rollback(NAME)
    assert champion(registry) == "1"


def test_rollback_passes_over_versions_that_were_never_champion(
    registry: Registry, register: Callable[..., Version]
) -> None:
    registry.promote(register())
    registry.challenge(register())
    registry.promote(register())
    registry.rollback(NAME)
    assert champion(registry) == "1"


def test_promoting_the_champion_again_forgets_no_champion_before_it(
    registry: Registry, register: Callable[..., Version]
) -> None:
    registry.promote(register())
    second = register()
    registry.promote(second)
    registry.promote(registry.find(NAME, second.version))
    registry.rollback(NAME)
    assert champion(registry) == "1"


def test_rollback_needs_a_champion(registry: Registry, register: Callable[..., Version]) -> None:
    register()
    with pytest.raises(RegistryError, match="animals has no champion"):
        registry.rollback(NAME)


def test_rollback_to_a_version_that_was_deleted_changes_nothing(
    registry: Registry, register: Callable[..., Version]
) -> None:
    registry.promote(register())
    registry.promote(register())
    client().delete_model_version(NAME, "1")
    with pytest.raises(RegistryError, match=r"no version 1 \(known: 2\)"):
        registry.rollback(NAME)
    assert champion(registry) == "2"


@pytest.mark.parametrize("is_server", [False, True])
def test_files_that_the_artifact_store_has_lost_are_named_with_the_remedy(
    home: Path, server: RegistryServer, monkeypatch: pytest.MonkeyPatch, is_server: bool
) -> None:
    if is_server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    store = client()
    experiment = experiment_id(store, "lost")
    run = store.create_run(experiment).info.run_id
    model = store.create_logged_model(experiment, "model", run)
    lost = Registry().register("lost", model.model_id, run, {"gapgate.verdict": "pass"})
    with pytest.raises(RegistryError, match=r"lost version 1 has no model.onnx in the artifact store; bring .*promote"):
        Registry().model_file(lost, home)
    with pytest.raises(RegistryError, match=r"lost version 1 has no receipt.json in the artifact store"):
        Registry().receipt(lost)


def test_a_registry_that_is_away_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    away = Registry()
    version = Version(NAME, "1", (), {"gapgate.verdict": "pass"}, "")
    calls: list[Callable[[], object]] = [
        lambda: away.versions(NAME),
        lambda: away.names(),
        lambda: away.register(NAME, "m-1", "r", {}),
        lambda: away.tag(version, {"a": "b"}),
        lambda: away.challenge(version),
        lambda: away.promote(version),
        lambda: away.rollback(NAME),
        lambda: away.model_file(version, home),
    ]
    for call in calls:
        with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9 does not answer"):
            call()


def test_of_two_who_promote_one_model_the_second_waits_for_the_first(home: Path) -> None:
    inside, waits = threading.Event(), threading.Event()
    order: list[str] = []

    def second() -> None:
        inside.wait()
        waits.set()
        with promotion_lock(NAME):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with promotion_lock(NAME):
        inside.set()
        waits.wait()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_those_who_promote_other_models_do_not_wait(home: Path) -> None:
    with promotion_lock(NAME), promotion_lock("plants"):
        pass


@pytest.fixture
def user(home: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user of an MLflow that asks for a password, who has made nothing yet."""
    shutil.copyfile(empty_store, tmp_path / "server.db")
    admin, password = "first-of-all-users", "second-of-all-users"
    keys = {"default_permission": "READ", "admin_username": "admin", "database_uri": f"sqlite:///{tmp_path}/users.db"}
    keys["authorization_function"] = "mlflow.server.auth:authenticate_request_basic_auth"
    config = tmp_path / "basic_auth.ini"
    config.write_text("\n".join(["[mlflow]", *(f"{key} = {value}" for key, value in keys.items())]))
    variables = {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_AUTH_ADMIN_PASSWORD": admin}
    server = RegistryServer(tmp_path)
    try:
        server.start("--app-name=basic-auth", **variables, MLFLOW_FLASK_SERVER_SECRET_KEY="of the test")
        made = {"username": "gapgate", "password": password}
        requests.post(f"{server.url}/api/2.0/mlflow/users/create", json=made, auth=("admin", admin)).raise_for_status()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "gapgate")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        yield
    finally:
        server.stop()


def test_a_user_of_mlflow_registers_the_first_version_of_a_name(user: None, register: Callable[..., Version]) -> None:
    assert register().version == "1"
