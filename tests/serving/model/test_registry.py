"""Following a model in the registry of a real MLflow server."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gapgate import artifacts
from gapgate.errors import ArtifactError, RegistryError, SettingsError, TrackingError
from gapgate.evidence.sealed import seal
from gapgate.evidence.sealed.package import ARCHIVE_TAG
from serving.model.registry import MlflowRegistry, ModelUri
from serving.model.watcher import Watcher
from tests.serving import packaged
from tests.serving.registry_server import ALIAS, Publisher, RegistryServer, pack, proxy
from tests.waiting import wait_for

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packaged.folder(tmp_path_factory.mktemp("source"))


@pytest.fixture
def publisher(mlflow_server: RegistryServer, source: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Publisher:
    """Of a model of this test's own."""
    return Publisher(mlflow_server, f"model {tmp_path.name}", source, tmp_path / "published")


class Served:
    """What a server holds: it loads packages as their version, and refuses those in `broken`."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.switches: list[str] = []
        self.loads: list[str] = []
        self.broken: dict[str, Exception] = {}

    def load(self, folder: Path) -> str:
        seal.verify(folder)
        version = str(artifacts.read_json(folder / "registration.json")["version"])
        self.loads.append(version)
        if version in self.broken:
            raise self.broken[version]
        return version

    def switch(self, version: str) -> None:
        self.version = version
        self.switches.append(version)


def watch(
    url: str, publisher: Publisher, cache_dir: Path, *, served: Served | None = None, poll_s: float = 60, **options: Any
) -> tuple[Watcher[str], Served]:
    served = served or Served()
    registry = MlflowRegistry(url, ModelUri.parse(f"models:/{publisher.name}@{ALIAS}"), cache_dir, **options)
    return Watcher(registry, poll_s, served.load, served.switch, lambda: served.version), served


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.name == "gapgate.serving"]
    caplog.clear()
    return found


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gapgate.serving")


def test_an_address_is_read_and_a_wrong_one_is_explained() -> None:
    assert ModelUri.parse("models:/a b@champion") == ModelUri("a b", "champion", "")
    assert str(ModelUri.parse("models:/gapgate/3")) == "models:/gapgate/3"
    for wrong in ("gapgate@champion", "models:/gapgate", "models:/gapgate/latest", "models:/a/b/3", "models:/@x", ""):
        with pytest.raises(SettingsError, match=r"names no registered model; write models:/NAME@ALIAS"):
            ModelUri.parse(wrong)
    with pytest.raises(
        SettingsError, match=r"sqlite:///x\.db is not the address of a server; .* start `mlflow server`"
    ):
        MlflowRegistry("sqlite:///x.db", ModelUri.parse("models:/gapgate/3"), Path("unused"))


def test_a_moved_alias_is_followed_and_moving_it_back_rolls_back_without_a_download(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = publisher.publish(), publisher.publish()
    with proxy(mlflow_server) as (url, seen):
        watcher, served = watch(url, publisher, tmp_path / "cache")
        for version in (first, second):
            publisher.promote(version)
            watcher.poll_once()
            assert served.version == version
            assert watcher.served is not None
            assert watcher.served.version == version
        fetched = len(seen)
        watcher.poll_once()
        publisher.promote(first)
        watcher.poll_once()
        assert len(seen) - fetched == 1 + 3  # the same version, then another: alias, run, list of files, and no archive
    assert served.switches == [first, second, first]
    assert (watcher.refused, watcher.problem) == ("", "")
    switched = [record for record in caplog.records if getattr(record, "event", "") == "model_switched"]
    assert [record.__dict__["version"] for record in switched] == [first, second, first]


def test_a_version_is_followed_by_its_number(publisher: Publisher, tmp_path: Path) -> None:
    version = publisher.publish()
    uri = ModelUri.parse(f"models:/{publisher.name}/{version}")
    registry = MlflowRegistry(publisher.url, uri, tmp_path / "cache")
    resolved = registry.resolve()
    assert (resolved.name, resolved.version, resolved.verdict) == (publisher.name, version, "pass")
    assert resolved.receipt.startswith("sha256:")
    assert seal.verify(registry.fetch(resolved)) == resolved.package_digest
    for missing in (f"models:/{publisher.name}/99", f"models:/{publisher.name}@none", "models:/unknown@champion"):
        with pytest.raises(RegistryError, match="not found"):
            MlflowRegistry(publisher.url, ModelUri.parse(missing), tmp_path).resolve()


def failing_verdict(publisher: Publisher) -> str:
    return publisher.publish(verdict="fail")


def failing_certificate(publisher: Publisher) -> str:
    return publisher.publish(lambda folder: artifacts.write_json(folder / "certificate.json", {"verdict": "undecided"}))


def changed_byte(publisher: Publisher) -> str:
    version = publisher.register()
    folder = publisher.make_package(version)
    archive = pack(folder, folder.with_name(f"{folder.name}-archive"))
    content, model = archive.read_bytes(), (folder / "model.onnx").read_bytes()
    at = content.index(model) + len(model) // 2
    archive.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    publisher.log_archive(version, archive)
    publisher.log_digest(version, seal.verify(folder))
    return version


def changed_archive(publisher: Publisher) -> str:
    version = changed_byte(publisher)
    publisher.client.set_model_version_tag(publisher.name, version, ARCHIVE_TAG, hashlib.sha256(b"").hexdigest())
    return version


def changed_before_packing(publisher: Publisher) -> str:
    version = publisher.register()
    folder = publisher.make_package(version)
    publisher.log_digest(version, seal.verify(folder))
    with (folder / "model.onnx").open("r+b") as file:
        file.write(b"\0")
    publisher.log_archive(version, pack(folder, folder.with_name(f"{folder.name}-archive")))
    return version


def other_digest(publisher: Publisher) -> str:
    version = publisher.publish()
    publisher.log_digest(version, "sha256:" + "0" * 64)
    return version


def other_receipt(publisher: Publisher) -> str:
    version = publisher.publish()
    publisher.client.set_model_version_tag(publisher.name, version, "gapgate.receipt", "sha256:" + "1" * 64)
    return version


def package_of_another_version(publisher: Publisher) -> str:
    made, version = publisher.publish(), publisher.register()
    folder = next(publisher._scratch.glob(f"{publisher.name}-{made}"))
    publisher.log_archive(version, pack(folder, publisher._scratch / "again"))
    publisher.log_digest(version, seal.verify(folder))
    receipt = artifacts.read_json(folder / "registration.json")["receipt"]
    publisher.client.set_model_version_tag(publisher.name, version, "gapgate.receipt", receipt)
    return version


def hostile_name(publisher: Publisher) -> str:
    version = publisher.register()
    folder = publisher.make_package(version)
    hostile = pack(folder, folder.with_name("hostile"), lambda tar: tar.add(ROOT / "LICENSE", "src/model/../../../x"))
    publisher.log_archive(version, hostile)
    publisher.log_digest(version, seal.verify(folder))
    return version


@pytest.mark.parametrize(
    ("publish", "reason"),
    [
        (failing_verdict, "the gate's verdict is fail, not pass"),
        (failing_certificate, "the certificate's verdict is undecided, not pass"),
        (changed_byte, r"refused: package/model\.onnx was changed since it was packaged"),
        (changed_archive, r"refused: model\.bento has the sha256 [0-9a-f]{64}, not [0-9a-f]{64} as it was registered"),
        (changed_before_packing, r"refused: package/model\.onnx was changed since it was packaged"),
        (other_digest, "is sha256:[0-9a-f]{64}, not sha256:0{64} as its run says"),
        (other_receipt, "is not what was registered: the receipt's content has the digest"),
        (package_of_another_version, "was made for .* version 2, not for .* version 3; "),
        (hostile_name, "leads out of it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_version_is_refused_once_and_the_old_one_goes_on(
    publish: Callable[[Publisher], str],
    reason: str,
    mlflow_server: RegistryServer,
    publisher: Publisher,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = publisher.promote(publisher.publish())
    bad = publish(publisher)
    with proxy(mlflow_server) as (url, seen):
        watcher, served = watch(url, publisher, tmp_path / "cache")
        watcher.poll_once()
        publisher.promote(bad)
        lines(caplog)
        watcher.poll_once()
        asked = len(seen)
        watcher.poll_once()
        assert len(seen) - asked == 1  # nothing is fetched again
        reasons, refused = lines(caplog), watcher.refused
        publisher.promote(good)
        watcher.poll_once()
    assert reasons == [refused]
    assert refused.startswith(f"{publisher.name} version {bad} is refused: ")
    assert re.search(reason, refused)
    assert served.switches == [good]
    assert served.loads == [good]
    assert watcher.refused == ""
    assert not list((tmp_path / "cache").rglob(".partial"))


@pytest.mark.parametrize("error", [ArtifactError("golden image a.png: logits differ"), KeyError("logits")], ids=repr)
def test_a_version_that_does_not_load_is_refused_until_the_alias_moves(
    error: Exception,
    publisher: Publisher,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good, bad = publisher.promote(publisher.publish()), publisher.publish()
    watcher, served = watch(publisher.url, publisher, tmp_path / "cache")
    served.broken[bad] = error
    watcher.poll_once()
    publisher.promote(bad)
    lines(caplog)
    for _ in range(3):
        watcher.poll_once()
    assert len(lines(caplog)) == 1
    assert str(error) in watcher.refused
    assert served.loads == [good, bad]
    third = publisher.promote(publisher.publish())
    watcher.poll_once()
    assert (served.version, watcher.refused) == (third, "")


def test_while_nothing_changes_it_asks_once_a_poll_and_a_new_package_is_found_later(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    version = publisher.promote(publisher.publish())
    watcher, _ = watch(mlflow_server.url, publisher, tmp_path / "cache", refresh_s=3600)
    counts = []
    for _ in range(4):
        before = len(mlflow_server.requests())
        watcher.poll_once()
        counts.append(len(mlflow_server.requests()) - before)
    assert counts == [4, 1, 1, 1]  # alias, run, list of files, package
    uri = ModelUri.parse(f"models:/{publisher.name}@{ALIAS}")
    registry = MlflowRegistry(mlflow_server.url, uri, tmp_path / "cache", refresh_s=0)
    assert registry.resolve().package_digest == registry.resolve().package_digest != f"sha256:{'0' * 64}"
    publisher.log_digest(version, f"sha256:{'0' * 64}")
    assert registry.resolve().package_digest == f"sha256:{'0' * 64}"


def test_a_start_with_a_refused_version_serves_the_last_good_one(publisher: Publisher, tmp_path: Path) -> None:
    good, bad = publisher.promote(publisher.publish()), publisher.publish(verdict="fail")
    watch(publisher.url, publisher, tmp_path / "cache")[0].poll_once()
    publisher.promote(bad)
    watcher, served = watch(publisher.url, publisher, tmp_path / "cache")
    watcher.poll_once()
    assert served.switches == [good]
    assert f"version {bad} is refused" in watcher.refused


def test_a_version_that_is_not_packaged_yet_is_waited_for_step_by_step(
    publisher: Publisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = publisher.promote(publisher.register())
    watcher, served = watch(publisher.url, publisher, tmp_path / "cache")

    def waits_for(what: str) -> None:
        for _ in range(2):
            watcher.poll_once()
            assert what in watcher.problem
        assert (len(lines(caplog)), watcher.refused, served.version) == (1, "", None)

    waits_for("no tag gapgate.receipt")
    folder = publisher.make_package(version)
    waits_for("no tag gapgate.package")
    publisher.log_digest(version, seal.verify(folder))
    waits_for("no artifact package/model.bento")
    publisher.log_archive(version, pack(folder, tmp_path))
    watcher.poll_once()
    assert (served.version, watcher.problem) == (version, "")


def test_an_outage_is_logged_once_and_a_restart_in_it_serves_the_last_model(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = publisher.promote(publisher.publish()), publisher.publish()
    watcher, served = watch(mlflow_server.url, publisher, tmp_path / "cache")
    watcher.poll_once()
    publisher.promote(second)
    mlflow_server.stop()
    try:
        lines(caplog)
        for _ in range(3):
            watcher.poll_once()
        assert len(lines(caplog)) == 1
        assert served.version == first
        assert watcher.problem == f"{mlflow_server.url} does not answer (Connection refused); it is tried again"

        restarted, served_again = watch(mlflow_server.url, publisher, tmp_path / "cache")
        for _ in range(2):
            restarted.poll_once()
        assert served_again.switches == [first]

        empty, none = watch(mlflow_server.url, publisher, tmp_path / "empty")
        empty.poll_once()
        assert none.version is None
        assert "does not answer" in empty.problem

        (model,) = (tmp_path / "cache").rglob("model.onnx")
        model.write_bytes(model.read_bytes()[:-1] + b"\0")
        damaged, none = watch(mlflow_server.url, publisher, tmp_path / "cache")
        damaged.poll_once()
        assert none.version is None
        lines(caplog)
    finally:
        mlflow_server.start()
    for _ in range(2):
        watcher.poll_once()
    assert lines(caplog) == [f"{publisher.name} version {second} is served", "the registry answers again"]
    assert (served.switches, watcher.problem) == ([first, second], "")


FETCH = """
import sys
from pathlib import Path
from serving.model.registry import MlflowRegistry, ModelUri
registry = MlflowRegistry(sys.argv[1], ModelUri.parse(sys.argv[2]), Path(sys.argv[3]))
resolved = registry.resolve()
print("ready", flush=True)
sys.stdin.readline()
print(registry.fetch(resolved), flush=True)
sys.stdin.readline()
print(sorted({"mlflow", "torch", "onnx", "sklearn", "bentoml"} & set(sys.modules)))
"""


def test_processes_that_fetch_at_once_download_once_and_what_one_uses_stays(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    with proxy(mlflow_server) as (url, seen):
        fetched: list[Path] = []

        def fetch_another() -> None:
            uri = ModelUri.parse(f"models:/{publisher.name}/{publisher.publish()}")
            registry = MlflowRegistry(url, uri, tmp_path / "cache")
            fetched.append(registry.fetch(registry.resolve()))
            registry.keep([])

        uri = f"models:/{publisher.name}/{publisher.publish()}"
        workers = [start_fetch(url, uri, tmp_path / "cache") for _ in range(3)]
        try:
            assert [say(worker) for worker in workers] == ["ready"] * 3
            for worker in workers:
                answer(worker)
            (folder,) = {Path(say(worker)) for worker in workers}
            assert len(seen) == 3 * 3 + 1
            for _ in range(3):
                fetch_another()
            assert seal.verify(folder)
            assert [other.exists() for other in fetched] == [False, True, True]
        finally:
            ended = [worker.communicate("\n", timeout=300) for worker in workers]
        assert ended == [("[]\n", "")] * 3
        fetch_another()
        assert not folder.exists()


def start_fetch(url: str, uri: str, cache_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, url, uri, str(cache_dir)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def say(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def answer(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()


def test_the_thread_follows_and_ends(publisher: Publisher, tmp_path: Path) -> None:
    first, second = publisher.promote(publisher.publish()), publisher.publish()
    watcher, served = watch(publisher.url, publisher, tmp_path / "cache", poll_s=0.1)
    watcher.start()
    try:
        wait_for(lambda: served.version == first)
        publisher.promote(second)
        wait_for(lambda: served.version == second)
    finally:
        watcher.stop()
    wait_for(lambda: not watches())
    assert served.version == second


def test_a_stop_does_not_wait_for_the_next_poll(publisher: Publisher, tmp_path: Path) -> None:
    version = publisher.promote(publisher.publish())
    watcher, served = watch(publisher.url, publisher, tmp_path / "cache", poll_s=3600)
    watcher.start()
    wait_for(lambda: served.version == version)
    watcher.stop()
    wait_for(lambda: not watches())


def watches() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "registry-watcher"]


def test_credentials_of_the_environment_are_sent_and_their_lack_is_named(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.promote(publisher.publish())
    uri = ModelUri.parse(f"models:/{publisher.name}@{ALIAS}")
    with proxy(mlflow_server, authorization="Basic YW5uOnNlY3JldA==") as (url, _):
        with pytest.raises(
            TrackingError, match=r"answers 401 \(You are not authenticated\); set MLFLOW_TRACKING_USERNAME"
        ):
            MlflowRegistry(url, uri, tmp_path).resolve()
        with_user = url.replace("//", "//ann:secret@")
        assert MlflowRegistry(with_user, uri, tmp_path).resolve().verdict == "pass"
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
        registry = MlflowRegistry(url, uri, tmp_path)
        assert registry.fetch(registry.resolve()).is_dir()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "of another server")
        assert MlflowRegistry(with_user, uri, tmp_path).resolve().verdict == "pass"
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    with proxy(mlflow_server, authorization="Bearer t0ken") as (url, _):
        assert MlflowRegistry(url, uri, tmp_path).resolve().verdict == "pass"


def test_a_redirect_to_another_host_is_not_followed(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    with proxy(mlflow_server) as (other, seen), proxy(mlflow_server, redirect_to=other) as (url, _):
        with pytest.raises(TrackingError, match=f"it redirects to {other.removeprefix('http://')}"):
            MlflowRegistry(url, ModelUri.parse("models:/any@champion"), tmp_path).resolve()
        assert seen == []


def test_a_server_that_is_not_mlflow_is_named(mlflow_server: RegistryServer, tmp_path: Path) -> None:
    uri = ModelUri.parse("models:/any@champion")
    with pytest.raises(TrackingError, match="answers 404; is it the address of an MLflow server"):
        MlflowRegistry(f"{mlflow_server.url}/elsewhere", uri, tmp_path).resolve()


def test_a_cache_folder_of_somebody_else_is_not_used(publisher: Publisher, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    publisher.promote(publisher.publish())
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 12345, -1)
    watcher, served = watch(publisher.url, publisher, tmp_path / "cache")
    watcher.poll_once()
    assert "belongs to the user 12345, not to 0; choose another GAPGATE_MODEL_CACHE" in watcher.problem
    assert served.version is None
