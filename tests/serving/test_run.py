"""Starting and stopping servers as processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import httpx
import psutil
import pytest

from gapgate.artifacts import Artifact
from gapgate.errors import ArtifactError, ServeError
from gapgate.process import child_server
from serving.run import Server, serve, unpack
from tests.serving.packaged import picture

UNWANTED = {
    "torch",
    "torchvision",
    "mlflow",
    "kfp",
    "dvc",
    "onnx",
    "sklearn",
    "pandas",
    "matplotlib",
    "components",
    "pipelines",
}


def ended(processes: list[psutil.Process], timeout_s: float = 60) -> bool:
    return not psutil.wait_procs(processes, timeout=timeout_s)[1]


def test_sigterm_ends_the_server_which_leaves_no_process_and_nothing_in_the_home_folder(
    bento: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    server = serve(bento.path / "model.bento", work_dir=tmp_path)
    try:
        server.wait_ready()
        root = psutil.Process(server.process.pid)
        family = [root, *root.children(recursive=True)]
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        assert ended(family)
        with pytest.raises(ServeError, match="the server ended, as it was told to by a signal"):
            server.wait_ready()
        assert list(home.iterdir()) == []
    finally:
        server.stop()


def test_a_safe_path_of_python_keeps_no_server_from_the_source_inside_its_bento(
    bento: Artifact, tmp_path: Path
) -> None:
    with serve(bento.path / "model.bento", work_dir=tmp_path, environment={"PYTHONSAFEPATH": "1"}) as server:
        server.wait_ready()


def test_bentoml_serve_takes_the_unpacked_bento_from_any_folder_and_ends_whole(bento: Artifact, tmp_path: Path) -> None:
    folder = unpack(bento.path / "model.bento", tmp_path / "bento")
    port = child_server.free_port()
    environment = os.environ | {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    environment["PYTHONSAFEPATH"] = "1"
    log = tmp_path / "log"
    command = [sys.executable, "-m", "bentoml", "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    process = child_server.start(command, log, cwd="/", env=environment)
    with Server(process, f"http://127.0.0.1:{port}", log) as server:
        server.wait_ready()
        answer = httpx.post(
            f"{server.url}/v1/predict", content=picture(16, 16), headers={"content-type": "image/png"}
        ).json()
        assert answer["model"]["version"] == "3"
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
        assert len(family) > 1
    assert ended(family)


def test_the_server_loads_no_training_or_pipeline_package_and_only_its_own_source(
    bento: Artifact, tmp_path: Path
) -> None:
    folder = unpack(bento.path / "model.bento", tmp_path / "bento")
    script = (
        "import bentoml, json, sys\n"
        f"service = bentoml.load({str(folder)!r})\n"
        "service.to_asgi(), service()\n"
        "names = ('gapgate', 'serving')\n"
        "own = [m.__file__ for name, m in sys.modules.items() if name.split('.')[0] in names]\n"
        "print(json.dumps([sorted({name.split('.')[0] for name in sys.modules}), own]))"
    )
    environment = os.environ | {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    packages, own = json.loads(ran.stdout.splitlines()[-1])
    assert UNWANTED.isdisjoint(packages)
    assert {"onnxruntime", "PIL"} <= set(packages)
    assert own
    assert all(Path(file).is_relative_to(folder / "src") for file in own)


def test_the_server_runs_on_uvloop_and_httptools(server: Server) -> None:
    (worker,) = psutil.Process(server.process.pid).children()
    mapped = Path(f"/proc/{worker.pid}/maps").read_text()
    assert "uvloop" in mapped
    assert "httptools" in mapped
    assert "torch" not in mapped


def test_a_bento_with_a_changed_receipt_is_refused_with_the_reason(bento: Artifact, tmp_path: Path) -> None:
    folder = unpack(bento.path / "model.bento", tmp_path / "bento")
    receipt = folder / "src" / "model" / "receipt.json"
    receipt.write_text(receipt.read_text().replace('"c1"', '"c2"'))
    changed = tmp_path / "changed.bento"
    with tarfile.open(changed, "w:xz", preset=0) as archive:
        archive.add(folder, ".")
    with (
        serve(changed, work_dir=tmp_path / "work") as server,
        pytest.raises(ServeError, match=r"refuses the model: .*receipt\.json was changed"),
    ):
        server.wait_ready()


def test_a_port_that_is_taken_is_named(bento: Artifact, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"127.0.0.1:{port}: Address already in use"):
            serve(bento.path / "model.bento", port=port, work_dir=tmp_path)


def test_what_is_no_bento_is_refused(bento: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        serve(tmp_path / "none.bento", work_dir=tmp_path / "a")
    (tmp_path / "text.bento").write_text("text")
    with pytest.raises(ArtifactError, match="not a Bento"):
        serve(tmp_path / "text.bento", work_dir=tmp_path / "b")
    whole = (bento.path / "model.bento").read_bytes()
    (tmp_path / "half.bento").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="not a Bento"):
        serve(tmp_path / "half.bento", work_dir=tmp_path / "c")
    shutil.make_archive(str(tmp_path / "other"), "xztar", bento.path.parent / "certificate")
    with pytest.raises(ArtifactError, match=r"no bento\.yaml"):
        serve(tmp_path / "other.tar.xz", work_dir=tmp_path / "d")


def test_a_foreign_child_that_ends_is_no_worker(unpacked: Path, tmp_path: Path) -> None:
    """Process 1 of a container gets every orphan."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serve_it = f"exec {sys.executable} -m serving --fd {listener.fileno()} --package {unpacked}"
        log = tmp_path / "log"
        command = ["bash", "-c", f"sleep 600 & {serve_it}"]
        process = child_server.start(command, log, pass_fds=[listener.fileno()])
        port = listener.getsockname()[1]
    with Server(process, f"http://127.0.0.1:{port}", log) as server:
        server.wait_ready()
        (orphan,) = (child for child in psutil.Process(process.pid).children() if child.name() == "sleep")
        orphan.terminate()
        assert ended([orphan])  # reaped
        assert process.poll() is None
        assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_one_worker_that_is_told_to_end_leaves_the_others_reachable(bento: Artifact, tmp_path: Path) -> None:
    environment = {"GAPGATE_WORKERS": "2"}
    with serve(bento.path / "model.bento", work_dir=tmp_path, environment=environment) as server:
        server.wait_ready()
        worker = psutil.Process(server.process.pid).children()[0]
        worker.terminate()
        for _ in range(40):
            assert httpx.get(f"{server.url}/livez", timeout=60).status_code == 200
        assert ended([worker])
        for _ in range(40):
            assert httpx.get(f"{server.url}/livez", timeout=60).status_code == 200
