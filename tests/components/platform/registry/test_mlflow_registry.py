"""The registry's versions, packages and aliases, on a real MLflow store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from components.platform.registry.mlflow_registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, Version
from components.platform.tracking.mlflow_client import client
from components.platform.tracking.mlflow_experiments import experiment_id
from gapgate.artifacts import read_json, write_json
from gapgate.errors import ArtifactError, GateError, RegistryError, TrackingError
from gapgate.evidence.sealed.package import ARCHIVE_TAG, DIGEST_TAG
from gapgate.evidence.sealed.receipt import Receipt
from gapgate.evidence.sealed.seal import seal
from tests.serving import packaged
from tests.serving.registry_server import RegistryServer, pack

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
        registry.name(name)
        return registry.register(name, model.model_id, run, {"gapgate.verdict": verdict, "gapgate.model": digest})

    return make


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packaged.folder(tmp_path_factory.mktemp("source"), similar_images=0)


@pytest.fixture
def publish(
    registry: Registry, register: Callable[..., Version], source: Path, tmp_path: Path
) -> Callable[..., Version]:
    """A version with its package; `verdict` is that of the certificate in it."""

    def publish(verdict: str = "pass") -> Version:
        version = register()
        folder = Path(shutil.copytree(source, tmp_path / "packages" / version.version))
        content = read_json(folder / "receipt.json") | {"model_name": NAME, "model_version": version.version}
        receipt = Receipt.model_validate(content)
        write_json(folder / "receipt.json", receipt.model_dump(mode="json"))
        write_json(folder / "certificate.json", read_json(folder / "certificate.json") | {"verdict": verdict})
        registry.tag(version, {"gapgate.receipt": receipt.digest})
        digest = seal(folder)
        registry.publish(version, pack(folder, tmp_path / "packed" / version.version), digest)
        return registry.find(NAME, version.version)

    return publish


@pytest.fixture
def promote(registry: Registry, tmp_path: Path) -> Callable[..., str | None]:
    def promote(version: Version, *, ends_challenge: bool = False) -> str | None:
        passed = registry.package(version, tmp_path / "fetched")
        with registry.exclusive(NAME) as held:
            return registry.promote(passed, held, ends_challenge=ends_challenge)

    return promote


@pytest.fixture
def challenge(registry: Registry) -> Callable[[Version], None]:
    def challenge(version: Version) -> None:
        with registry.exclusive(NAME) as held:
            registry.challenge(version, held)

    return challenge


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


def test_models_are_listed_beyond_the_hundred_of_one_answer_of_mlflow(registry: Registry) -> None:
    made = [f"model-{number:03d}" for number in range(101)]
    for name in made:
        registry.name(name)
    assert registry.names() == made


def test_versions_are_counted_from_1_and_listed_newest_first(
    registry: Registry, register: Callable[..., Version]
) -> None:
    made = [register().version for _ in range(11)]
    assert made == [str(number) for number in range(1, 12)]
    assert [row.version for row in registry.versions(NAME)] == made[::-1]
    with pytest.raises(RegistryError, match=r"no version 12 \(known: 11, 10, 9"):
        registry.find(NAME, "12")


def test_a_version_is_found_by_what_it_is_made_of_the_oldest_first_and_not_without_its_run(
    registry: Registry, register: Callable[..., Version]
) -> None:
    assert registry.made_of(NAME, {"gapgate.model": "sha256:1"}) is None
    first, second, _ = (register(digest=f"sha256:{digest}") for digest in (1, 1, 2))
    found = registry.made_of(NAME, {"gapgate.model": "sha256:1", "gapgate.verdict": "pass"})
    assert found is not None
    assert found.version == first.version
    assert registry.made_of(NAME, {"gapgate.model": "sha256:1", "gapgate.verdict": "fail"}) is None
    client().delete_run(first.run_id)
    found = registry.made_of(NAME, {"gapgate.model": "sha256:1"})
    assert found is not None
    assert found.version == second.version


def test_models_do_not_share_versions_or_aliases(
    registry: Registry,
    register: Callable[..., Version],
    publish: Callable[..., Version],
    promote: Callable[..., str | None],
) -> None:
    promote(publish())
    assert register(name="plants").version == "1"
    assert registry.champion("plants") is None
    assert set(registry.names()) == {NAME, "plants"}


def test_tags_are_added_to_those_of_the_registration(registry: Registry, register: Callable[..., Version]) -> None:
    version = register()
    registry.tag(version, {"gapgate.receipt": "sha256:9"})
    tags = registry.find(NAME, version.version).tags
    assert tags == {"gapgate.verdict": "pass", "gapgate.model": "sha256:0", "gapgate.receipt": "sha256:9"}


def test_promotion_gives_the_alias_and_takes_the_challengers(
    registry: Registry,
    publish: Callable[..., Version],
    promote: Callable[..., str | None],
    challenge: Callable[[Version], None],
) -> None:
    first, second = publish(), publish()
    assert promote(first) is None
    challenge(second)
    assert aliases(registry) == {"1": (CHAMPION,), "2": (CHALLENGER,)}
    assert promote(second) == first.version
    assert aliases(registry) == {"2": (CHAMPION,)}
    assert registry.find(NAME, "2").tags[PREVIOUS] == "1"


def test_promotion_leaves_a_challenger_that_is_another_version_unless_it_ends_the_challenge(
    registry: Registry,
    publish: Callable[..., Version],
    promote: Callable[..., str | None],
    challenge: Callable[[Version], None],
) -> None:
    first, second = publish(), publish()
    challenge(second)
    promote(first)
    assert aliases(registry) == {"1": (CHAMPION,), "2": (CHALLENGER,)}
    promote(first, ends_challenge=True)
    assert aliases(registry) == {"1": (CHAMPION,)}


def test_a_version_is_found_by_the_first_characters_of_its_receipt(
    registry: Registry, register: Callable[..., Version]
) -> None:
    first, second = register(), register(name="plants")
    registry.tag(first, {"gapgate.receipt": "sha256:123456aa"})
    registry.tag(second, {"gapgate.receipt": "sha256:123456bb"})
    assert {row.name for row in registry.with_receipt("123456")} == {NAME, "plants"}
    assert [row.receipt for row in registry.with_receipt("123456b")] == ["sha256:123456bb"]
    assert registry.with_receipt("23456") == []


@pytest.mark.parametrize("verdict", ["fail", "undecided"])
def test_a_version_that_did_not_pass_is_never_promoted(
    registry: Registry, register: Callable[..., Version], promote: Callable[..., str | None], verdict: str
) -> None:
    version = register(verdict)
    with pytest.raises(GateError, match=f"animals version 1 has the verdict {verdict}"):
        promote(version)
    # As an edit of the database: the tag lets nothing in that has no package.
    registry.tag(version, {"gapgate.verdict": "pass"})
    with pytest.raises(RegistryError, match="animals version 1 has no package"):
        promote(registry.find(NAME, "1"))
    assert aliases(registry) == {}


def test_the_certificate_in_the_package_counts_and_not_the_tag(
    registry: Registry, publish: Callable[..., Version], promote: Callable[..., str | None]
) -> None:
    promote(publish())
    undecided = publish("undecided")
    assert undecided.verdict == "pass"
    with pytest.raises(GateError, match="the certificate's verdict is undecided, not pass"):
        promote(undecided)
    # As an edit of the tag that `rollback` goes by.
    registry.tag(registry.find(NAME, "1"), {PREVIOUS: undecided.version})
    with pytest.raises(GateError, match="the certificate's verdict is undecided, not pass"):
        registry.rollback(NAME)
    assert aliases(registry) == {"1": (CHAMPION,)}


def test_the_package_of_another_version_is_refused(
    registry: Registry, publish: Callable[..., Version], promote: Callable[..., str | None]
) -> None:
    first, second = publish(), publish()
    stored = Path(client().download_artifacts(first.run_id, "package/model.bento"))
    client().log_artifact(second.run_id, str(stored), "package")
    with pytest.raises(
        ArtifactError, match=r"the package of animals version 2 is damaged: model\.bento has the sha256 \w+, not "
    ):
        promote(second)
    # Whoever edits the registry's tags as well makes it the package of another version.
    archive = registry.find(NAME, first.version).tags[ARCHIVE_TAG]
    registry.tag(second, {ARCHIVE_TAG: archive, DIGEST_TAG: first.package, "gapgate.receipt": first.receipt})
    with pytest.raises(ArtifactError, match="the package was made for animals version 1, not for animals version 2"):
        promote(registry.find(NAME, "2"))
    assert aliases(registry) == {}


def test_a_damaged_package_is_named(
    registry: Registry, publish: Callable[..., Version], promote: Callable[..., str | None]
) -> None:
    version = publish()
    stored = Path(client().download_artifacts(version.run_id, "package/model.bento"))
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    client().log_artifact(version.run_id, str(stored), "package")
    with pytest.raises(ArtifactError, match=r"the package of animals version 1 is damaged: .*model\.bento"):
        promote(version)


def test_a_version_of_before_is_promoted_by_the_digest_that_its_run_has(
    registry: Registry, publish: Callable[..., Version], promote: Callable[..., str | None]
) -> None:
    version = publish()
    client().delete_model_version_tag(NAME, version.version, DIGEST_TAG)
    promote(registry.find(NAME, version.version))
    assert aliases(registry) == {"1": (CHAMPION,)}


def test_rollback_goes_back_champion_by_champion(
    registry: Registry,
    publish: Callable[..., Version],
    promote: Callable[..., str | None],
    challenge: Callable[[Version], None],
) -> None:
    """And passes over versions that were never champion, and over one that is promoted a second time."""
    promote(publish())
    challenge(publish())
    for version in (publish(), last := publish(), last):
        promote(version)
    was, now = registry.rollback(NAME)
    assert (was.version, now.version, champion(registry)) == ("4", "3", "3")
    registry.rollback(NAME)
    assert champion(registry) == "1"
    with pytest.raises(RegistryError, match="version 1 is the first champion"):
        registry.rollback(NAME)
    assert champion(registry) == "1"


def test_rollback_needs_a_champion(registry: Registry, register: Callable[..., Version]) -> None:
    register()
    with pytest.raises(RegistryError, match="animals has no champion"):
        registry.rollback(NAME)


def test_rollback_to_a_version_that_was_deleted_changes_nothing(
    registry: Registry, publish: Callable[..., Version], promote: Callable[..., str | None]
) -> None:
    promote(publish())
    promote(publish())
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
    Registry().name("lost")
    lost = Registry().register("lost", model.model_id, run, {"gapgate.verdict": "pass", DIGEST_TAG: "sha256:0"})
    with pytest.raises(RegistryError, match=r"lost version 1 has no model.bento in the artifact store; bring .*prom"):
        Registry().package(lost, home)
    with pytest.raises(RegistryError, match=r"lost version 1 has no receipt.json in the artifact store"):
        Registry().receipt(lost)


def test_a_registry_that_is_away_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    away = Registry()
    version = Version(NAME, "1", (), {"gapgate.verdict": "pass", DIGEST_TAG: "sha256:0"}, "r")
    calls: list[Callable[[], object]] = [
        lambda: away.versions(NAME),
        lambda: away.names(),
        lambda: away.name(NAME),
        lambda: away.register(NAME, "m-1", "r", {}),
        lambda: away.tag(version, {"a": "b"}),
        lambda: away.exclusive(NAME).__enter__(),
        lambda: away.rollback(NAME),
        lambda: away.package(version, home),
    ]
    for call in calls:
        with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9 does not answer"):
            call()


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
