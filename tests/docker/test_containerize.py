"""A Bento as `bentoml containerize` makes an image of it: our server inside, with its keys, behind a published port."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
import yaml
from docker.client import DockerClient
from docker.errors import ContainerError

from gapgate.evidence.sealed.archive import unpack
from tests.docker.conftest import CA_BUNDLE, ROOT, base_image
from tests.docker.test_images import KEY, wait_ready
from tests.serving import packaged

NAME = "gapgate-containerized:tests"
# The base has no uv, which the Dockerfile of BentoML would fetch by pip, and may lack the certificates of this machine.
BASE = """FROM {base}
COPY uv ca.pem uv.toml groupadd useradd /opt/
ENV PATH=/opt:$PATH SSL_CERT_FILE=/opt/ca.pem UV_CONFIG_FILE=/opt/uv.toml
RUN command -v groupadd || {{ cd /opt && chmod +x groupadd useradd; }}
"""
# python:3.11-slim has Debian's passwd; a base of our own has not.
GROUPADD = "#!/bin/sh\necho bentoml:x:1034: >> /etc/group\n"
USERADD = """#!/bin/sh
echo bentoml:x:1034:1034::/home/bentoml:/bin/sh >> /etc/passwd
mkdir /home/bentoml && chown 1034:1034 /home/bentoml
"""


@pytest.fixture(scope="module")
def containerized(engine: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    work = tmp_path_factory.mktemp("containerize")
    context = work / "base"
    context.mkdir()
    (context / "Dockerfile").write_text(BASE.format(base=base_image(engine)))
    (context / "groupadd").write_text(GROUPADD)
    (context / "useradd").write_text(USERADD)
    shutil.copy(shutil.which("uv") or ROOT / ".uv" / "bin" / "uv", context / "uv")
    (context / "ca.pem").write_bytes(CA_BUNDLE.read_bytes() if CA_BUNDLE.exists() else b"")
    own = os.environ.get("UV_CONFIG_FILE")
    (context / "uv.toml").write_bytes(Path(own).read_bytes() if own else b"")
    engine.images.build(path=str(context), tag="gapgate-base:containerize")
    bento = packaged.build(work / "packaged")
    folder = unpack(bento.path / "model.bento", work / "bento")
    content = yaml.safe_load((folder / "bento.yaml").read_text())
    content["image"]["base_image"] = "gapgate-base:containerize"
    (folder / "bento.yaml").write_text(yaml.safe_dump(content))
    environment = os.environ | {"BENTOML_HOME": str(work / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    # As in the Makefile: Docker from version 23 on cannot build without its plugin buildx; Debian's older one can.
    if subprocess.run(["docker", "buildx", "version"], capture_output=True).returncode:
        environment["PATH"] = f"/usr/bin:{environment['PATH']}"

    def bentoml(*command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "bentoml", *command], env=environment, capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    shutil.make_archive(str(work / "model"), "tar", folder)
    bentoml("import", str(work / "model.tar"))
    bentoml("containerize", f"{content['name']}:{content['version']}", "-t", NAME, "--opt", "network=host")
    yield NAME
    engine.images.remove(NAME, force=True)


def test_the_container_answers_holders_of_a_key_through_a_published_port(
    engine: DockerClient, containerized: str
) -> None:
    container = engine.containers.run(
        containerized,
        detach=True,
        environment={"GAPGATE_API_KEYS": sha256(KEY.encode()).hexdigest()},
        ports={"3000/tcp": ("127.0.0.1", None)},
    )
    try:
        container.reload()
        url = f"http://127.0.0.1:{container.ports['3000/tcp'][0]['HostPort']}"
        with httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=60) as client:
            wait_ready(container, client)
            files = {"image": ("a.png", packaged.picture(16, 16))}
            assert client.post("/v1/predict", files=files).json()["class"] in packaged.CLASS_NAMES
            assert httpx.post(f"{url}/v1/predict", files=files).status_code == 401
        processes = str(container.top()["Processes"])
        assert "python -m serving" in processes
        assert "bentoml" not in processes
        container.stop(timeout=60)
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 0
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("command", [None, "serve"])
def test_without_a_key_it_says_so_at_start(engine: DockerClient, containerized: str, command: str | None) -> None:
    with pytest.raises(ContainerError) as refused:
        engine.containers.run(containerized, command=command, remove=True, stderr=True)
    assert "no key is set; set GAPGATE_API_KEYS, or GAPGATE_ALLOW_ANONYMOUS=true" in str(refused.value.stderr)
