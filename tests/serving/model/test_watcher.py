"""A restart while the registry hangs, and what passes by itself: neither is a reason to refuse a model."""

from __future__ import annotations

import errno
import fcntl
import logging
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gapgate.errors import TrackingError
from serving.model.models import Models
from serving.model.predictor import Predictor
from serving.model.registry import MlflowRegistry, ModelUri
from serving.model.watcher import Watcher
from serving.options import Options
from tests.serving import packaged
from tests.serving.registry_server import ALIAS, Publisher, RegistryServer, proxy
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packaged.folder(tmp_path_factory.mktemp("source"))


@pytest.fixture
def publisher(mlflow_server: RegistryServer, source: Path, tmp_path: Path) -> Publisher:
    """Of a model of this test's own, with one version, promoted."""
    made = Publisher(mlflow_server, f"model {tmp_path.name}", source, tmp_path / "published")
    made.promote(made.publish())
    return made


def follow(
    publisher: Publisher, cache_dir: Path, errors: list[Exception] | None = None
) -> tuple[Watcher[Predictor], list[Predictor]]:
    """A watcher, whose first loads meet `errors`, and what it served."""
    served: list[Predictor] = []

    def load(folder: Path) -> Predictor:
        if errors:
            raise errors.pop(0)
        return Predictor.load(folder)

    registry = MlflowRegistry(publisher.url, ModelUri.parse(f"models:/{publisher.name}@{ALIAS}"), cache_dir)
    return Watcher(registry, 60, load, served.append, lambda: served[-1] if served else None), served


def test_a_restart_serves_the_last_model_at_once_while_the_registry_never_answers_and_another_process_downloads(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(model=f"models:/{publisher.name}@{ALIAS}", model_cache=str(tmp_path / "cache"))
    with proxy(mlflow_server) as (url, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        before = Models(options, tmp_path)
        before.start()
        wait_for(lambda: before.current is not None)
        before.stop()
    (lock_file,) = (tmp_path / "cache").glob("*/.lock")
    with lock_file.open() as lock, socket.create_server(("127.0.0.1", urlsplit(url).port or 0)) as silent:
        fcntl.flock(lock, fcntl.LOCK_EX)
        restarted = Models(options, tmp_path)
        start = threading.Thread(target=restarted.start, daemon=True)
        start.start()
        wait_for(lambda: restarted.current is not None)  # the first poll waits 10 s for an answer
        served, problem = restarted.current, restarted.problem
        silent.settimeout(60)
        silent.accept()[0].close()  # that poll had asked
        restarted.stop()
    assert before.current is not None
    assert served is not None
    assert served.model == before.current.model
    assert problem == "the model is being loaded"


def test_a_package_damaged_in_the_cache_is_not_served_by_a_restart_and_is_fetched_again(
    publisher: Publisher, tmp_path: Path
) -> None:
    follow(publisher, tmp_path / "cache")[0].poll_once()
    (model,) = (tmp_path / "cache").rglob("model.onnx")
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    watcher, served = follow(publisher, tmp_path / "cache")
    watcher.serve_last()
    assert (served, watcher.refused) == ([], "")
    watcher.poll_once()
    assert len(served) == 1


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), OSError(errno.EMFILE, "Too many open files")], ids=["memory", "files"]
)
def test_a_model_that_this_machine_has_no_room_for_is_tried_again_at_the_next_poll_and_then_served(
    error: Exception,
    publisher: Publisher,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watcher, served = follow(publisher, tmp_path / "cache", [error])
    watcher.poll_once()
    assert (served, watcher.refused) == ([], "")
    assert watcher.problem == f"{type(error).__name__}: {error}; it is tried again"
    watcher.poll_once()
    assert (len(served), watcher.refused, watcher.problem) == (1, "", "")

    caplog.set_level(logging.WARNING, "gapgate.serving")
    caplog.clear()
    restarted, served = follow(publisher, tmp_path / "cache", [error, error])
    for _ in range(3):
        assert (served, restarted.refused) == ([], "")
        restarted.serve_last()
    assert len(served) == 1
    assert [record.__dict__["event"] for record in caplog.records] == ["model_hindered"]


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xff\x00", b"[" * 100_000, b"[1]", b"{}", b'{"version": 1, "package_digest": 5}'],
    ids=["empty", "no text", "nested", "list", "nothing", "numbers"],
)
def test_garbage_where_the_last_version_is_noted_is_passed_over_and_written_anew(
    garbage: bytes, publisher: Publisher, tmp_path: Path
) -> None:
    cache_dir = tmp_path / "cache"
    follow(publisher, cache_dir)[0].poll_once()
    (pointer,) = cache_dir.glob("*/followed-*.json")
    for path in (pointer, pointer.with_name("followed-another.json")):
        path.write_bytes(garbage)
    watcher, served = follow(publisher, cache_dir)
    watcher.serve_last()
    assert served == []
    watcher.poll_once()
    assert (len(served), watcher.refused, watcher.problem) == (1, "", "")
    restarted, served = follow(publisher, cache_dir)
    restarted.serve_last()
    assert len(served) == 1


def test_a_proxy_of_the_environment_is_asked_for_another_machine_and_not_for_this_one(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = ModelUri.parse(f"models:/{publisher.name}@{ALIAS}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with proxy(mlflow_server, redirect_to="http://elsewhere.invalid") as (url, seen):
        monkeypatch.setenv("http_proxy", url)
        assert MlflowRegistry(mlflow_server.url, uri, tmp_path).resolve().name == publisher.name
        assert seen == []
        with pytest.raises(TrackingError, match="it redirects to elsewhere"):
            MlflowRegistry("http://registry.invalid", uri, tmp_path).resolve()
        assert len(seen) == 1
