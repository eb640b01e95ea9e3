"""The images, built by `make` with a real Docker engine; `infra/docker/engine` starts one where none is."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from docker.client import DockerClient
from docker.errors import ImageNotFound
from docker.models.images import Image
from filelock import FileLock

ROOT = Path(__file__).parents[2]
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
TRAIN_BYTES = 25 * 2**30
"""Disk space that building `train` may take: the packages in BuildKit's cache, in a layer, and on their way."""

SECRET = "a secret of the builds of the tests"
"""Stands in uv's settings, which the builds get; a cached layer was built with it too."""

Build = Callable[[str], Image]


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    # By its command, which the builds need too; a client that is refused leaves its socket open.
    asked = subprocess.run(["bash", "-c", "docker version"], capture_output=True, text=True)
    if asked.returncode != 0:
        reason = asked.stderr.strip().splitlines()[-1]
        pytest.skip(f"no Docker engine answers ({reason}); infra/docker/engine starts one")
    client = docker.from_env(timeout=300)
    yield client
    client.close()


@pytest.fixture(scope="session")
def build(engine: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a target of the Dockerfile as `make images` does: on python:3.11-slim where the engine has it, else on a
    base made from Debian's packages."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    if CA_BUNDLE.exists():
        environment.setdefault("SSL_CERT_FILE", str(CA_BUNDLE))
    settings = tmp_path_factory.mktemp("build") / "uv.toml"
    own = environment.get("UV_CONFIG_FILE")
    settings.write_text(f"# {SECRET}\n" + (Path(own).read_text() if own else ""))
    environment["UV_CONFIG_FILE"] = str(settings)

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    def make(target: str) -> Image:
        tag = run("make", "--silent", "tag")
        with FileLock(Path(tempfile.gettempdir()) / "gapgate-images.lock"):  # test processes take turns
            base = f"BASE_IMAGE={base_image(engine)}"
            run("make", f"image-{target}", f"TAG={tag}", base, "BUILD_OPTIONS=--network host")
        return engine.images.get(f"gapgate/{target}:{tag}")

    return make


@pytest.fixture(scope="session")
def step_image(build: Build) -> Image:
    return build("step")


@pytest.fixture(scope="session")
def serve_image(build: Build) -> Image:
    return build("serve")


@pytest.fixture(scope="session")
def train_image(engine: DockerClient, build: Build) -> Image:
    info = engine.info()
    if info["Driver"] == "vfs":
        pytest.skip("the engine's storage driver vfs copies the 6 GB of `train` for each layer")
    disk = os.statvfs(root if (root := Path(info["DockerRootDir"])).exists() else "/")
    if not engine.images.list("gapgate/train") and disk.f_bavail * disk.f_frsize < TRAIN_BYTES:
        pytest.skip(f"less than {TRAIN_BYTES >> 30} GiB of disk are free for the image `train`")
    return build("train")


def base_image(engine: DockerClient) -> str:
    """The name of python:3.11-slim where the engine has it, else of a base made from Debian's packages."""
    try:
        engine.images.get("python:3.11-slim")
        return "python:3.11-slim"
    except ImageNotFound:
        made = subprocess.run(["infra/docker/base"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=1200)
        return made.stdout.strip()
