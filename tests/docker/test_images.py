"""The images as they are built and run: small, labelled, for any user, without a shell or a place to write but /tmp."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from docker.client import DockerClient
from docker.models.containers import Container
from docker.models.images import Image

from gapgate.artifacts import code_revision
from tests.docker.conftest import CA_BUNDLE, SECRET
from tests.serving import packaged

SLIM_BYTES = 125_000_000
"""Size of python:3.11-slim, which the limits hold for; a base image of one's own may be larger or smaller."""
LOCKED: dict[str, Any] = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
LOCKED |= {"tmpfs": {"/tmp": "size=256m"}}
KEY = "a key of the tests"


def python(engine: DockerClient, image: Image, code: str, **more: Any) -> str:
    """What `code` prints in a container that may write nothing but /tmp and has no network."""
    command = ["python", "-c", code]
    options = LOCKED | {"network_mode": "none", "remove": True} | more
    return str(engine.containers.run(image, entrypoint=command[0], command=command[1:], **options).decode())


def size_above_base(image: Image) -> int:
    """Bytes of the layers that the Dockerfile adds: all but those that came with the base image."""
    history = image.history()
    ours = next(i for i, layer in enumerate(history) if "buildkit" not in (layer["Comment"] or ""))
    return sum(layer["Size"] for layer in history[:ours])


@pytest.fixture(params=["step", "serve"])
def image(request: pytest.FixtureRequest) -> Image:
    return request.getfixturevalue(f"{request.param}_image")


def test_the_labels_name_version_and_revision(image: Image) -> None:
    labels = image.labels
    assert labels["org.opencontainers.image.version"] == "0.2.0"
    assert labels["org.opencontainers.image.revision"] == code_revision()
    assert labels["org.opencontainers.image.title"] == image.tags[0].partition(":")[0]
    assert labels["org.opencontainers.image.base.name"]
    assert f"GAPGATE_CODE_REVISION={code_revision()}" in image.attrs["Config"]["Env"]
    assert not [tag for tag in image.tags if tag.endswith(":latest")]


@pytest.mark.parametrize(("name", "limit_bytes"), [("serve", 350_000_000), ("step", 900_000_000)])
def test_on_the_slim_base_an_image_stays_small(request: pytest.FixtureRequest, name: str, limit_bytes: int) -> None:
    added = size_above_base(request.getfixturevalue(f"{name}_image"))
    print(f"{name}: {added / 1e6:.0f} MB above its base")
    assert 50_000_000 < added < limit_bytes - SLIM_BYTES


def test_nobody_gains_rights_in_an_image(engine: DockerClient, image: Image) -> None:
    assert image.attrs["Config"]["User"] == "65532:65532"
    found = """
import os, stat
for folder, _, names in os.walk("/"):
    if folder.startswith(("/proc", "/sys", "/dev")):
        continue
    for name in names:
        path = os.path.join(folder, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) and (mode & 0o6000 or mode & 0o002 or (os.access(path, os.W_OK) and os.getuid())):
            print(path)
print("user", os.getuid(), os.getgid())
"""
    assert python(engine, image, found).split() == ["user", "65532", "65532"]


def test_nothing_of_the_build_secrets_is_left(engine: DockerClient, image: Image) -> None:
    own = python(engine, image, "print(open('/etc/ssl/certs/ca-certificates.crt').read())")
    # The machine's certificates that the base does not have by itself, by a line of each.
    secrets = [SECRET, *sorted({lines[5] for lines in certificates(machine_bundle())} - set(own.split()))]
    assert not [secret for secret in secrets if secret in str(image.history())]
    assert not re.search(r"https?://", " ".join(layer["CreatedBy"] for layer in image.history()))
    search = """
import json, os, re
secrets = re.compile("|".join(map(re.escape, json.loads(os.environ["SECRETS"]))).encode())
for folder, folders, names in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")]
    for path in (os.path.join(folder, name) for name in names):
        if os.path.basename(path) == "cacert.pem":  # authorities that a package brings
            continue
        if os.path.isfile(path) and not os.path.islink(path) and secrets.search(open(path, "rb").read()):
            print(path)
"""
    # As root, to read everything, and without the tmpfs that hides the image's own /tmp.
    assert python(engine, image, search, tmpfs={}, user="0", environment={"SECRETS": json.dumps(secrets)}) == ""


def test_the_steps_without_torch_run_in_step(engine: DockerClient, step_image: Image) -> None:
    modules = ["ingest", "preprocess", "evaluate", "gate", "register", "package"]
    python(engine, step_image, "import components.execute, components.platform.tracking.tensorboard, tensorboardX")
    python(engine, step_image, f"from components import {', '.join(modules)}")
    python(engine, step_image, "import bentoml, boto3, dvc.api, kfp.dsl.executor_main, mlflow.onnx, psycopg")
    assert python(engine, step_image, "import importlib.util as u; print(u.find_spec('torch'))") == "None\n"


def test_mlflows_server_starts_in_step(engine: DockerClient, step_image: Image) -> None:
    """The platform's MLflow server is this image too."""
    code = "from mlflow.server import auth, fastapi_app; print(fastapi_app.app.title)"
    assert python(engine, step_image, code, environment={"MLFLOW_BACKEND_STORE_URI": "sqlite:////tmp/mlflow.db"})


def test_augment_and_train_run_in_train(engine: DockerClient, train_image: Image) -> None:
    code = "from components import augment, train; import onnxscript, torch, torchvision; print(torch.ones(2).sum())"
    assert python(engine, train_image, code) == "tensor(2.)\n"
    assert python(engine, train_image, "import torch; print(torch.version.cuda)") != "None\n"


def test_train_is_step_and_more(step_image: Image, train_image: Image) -> None:
    """A node that runs both has what they share once."""
    packages = step_image.attrs["RootFS"]["Layers"][:-1]  # the last is our code
    assert train_image.attrs["RootFS"]["Layers"][: len(packages)] == packages


@pytest.fixture
def served(engine: DockerClient, serve_image: Image, tmp_path: Path) -> Iterator[tuple[Container, httpx.Client]]:
    """The prediction service in its container, and a client with a key."""
    package = packaged.folder(tmp_path)
    for path in (tmp_path, *package.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # pytest's folders are the caller's alone
    container = engine.containers.run(
        serve_image,
        detach=True,
        command=["--package", "/model"],
        volumes={str(package): {"bind": "/model", "mode": "ro"}},
        environment={"GAPGATE_API_KEYS": sha256(KEY.encode()).hexdigest(), "GAPGATE_WORKERS": "2"},
        ports={"3000/tcp": ("127.0.0.1", None)},
        **LOCKED,
    )
    try:
        container.reload()
        port = container.ports["3000/tcp"][0]["HostPort"]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": KEY}, timeout=60) as client:
            yield container, client
    finally:
        container.remove(force=True)


def test_serve_answers_and_ends_on_sigterm(served: tuple[Container, httpx.Client]) -> None:
    container, client = served
    wait_ready(container, client)
    answer = client.post("/v1/predict", content=packaged.picture(16, 16), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["class"] in packaged.CLASS_NAMES
    assert client.get("/metrics").status_code == 200
    assert httpx.post(client.base_url.join("/v1/predict"), content=packaged.picture(16, 16)).status_code == 401
    container.stop(timeout=60)  # SIGTERM, and SIGKILL after it, which gives 137
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0


def wait_ready(container: Container, client: httpx.Client, timeout_s: float = 120) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"not ready in {timeout_s} s:\n{container.logs().decode()[-4000:]}")


def machine_bundle() -> str:
    return CA_BUNDLE.read_text() if CA_BUNDLE.exists() else ""


def certificates(bundle: str) -> list[list[str]]:
    """The lines of each certificate."""
    found = re.findall(r"-----BEGIN CERTIFICATE-----\n(.*?)\n-----END", bundle, re.DOTALL)
    return [certificate.split() for certificate in found]
