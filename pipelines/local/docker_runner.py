"""Runner of the steps in containers on this machine: KFP's own DockerRunner, with limits for each container.

Arguments that all steps share go through `DockerRunner(**container_run_args)`. The rest has no public place in kfp
2.17.0: every task gets the same arguments; a subclass of DockerRunner finds no handler, because the dispatcher looks it
up by the exact type; an image that is named by its id or a short name is pulled from a registry; and a container that
vanishes before its end is counted as a success. KFP reaches Docker by the public `docker.from_env()` alone, so while a
run lasts that function gives an engine of ours, which adds what one step needs.

The limit: a kfp that makes its client in another way would not meet this engine. Its containers would still have no
network, no capability and no workspace, so the run would fail, not run unlocked; tests/docker/test_runner.py would say.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from components.catalog import STEPS
from components.platform.run_context import DRAINED_VARIABLE, EXPERIMENT_VARIABLE, RunContext
from components.platform.tracking.spool import Spool
from components.platform.workspace import home, tracking_uri
from gapgate.artifacts import RUN_VARIABLE
from gapgate.errors import SettingsError
from gapgate.settings.sections import Settings
from pipelines.container_images import built, kind_of
from serving.options import is_loopback

_OUT_OF_MEMORY = "the container was killed, out of memory; give Docker more, or lower train.batch_size"
_REMOTE = ("AWS_", "AZURE_", "GOOGLE_", "GIT_", "DVC_")
"""Beginnings of the variables that DVC remotes and git repositories take their credentials from."""

_REMOVE = """
import contextlib, docker, sys
sys.stdin.read()
with contextlib.closing(docker.from_env()) as client, contextlib.suppress(docker.errors.APIError):
    client.containers.get(sys.argv[1]).remove(force=True)
"""


@contextmanager
def containers(settings: Settings, context: RunContext) -> Iterator[Any]:
    """KFP's runner for one run; every step runs in its image as the calling user.

    Raises:
        SettingsError: no Docker engine answers, or an image is not there.
    """
    import docker
    from kfp import local

    steps = Steps(settings, context, _find_images())
    from_env = docker.from_env
    docker.from_env = lambda: _Engine(from_env(), steps)
    try:
        yield local.DockerRunner(**_locked())
    finally:
        docker.from_env = from_env


def _locked() -> dict[str, Any]:
    """The limits of every step's container: it may work in its folders, as the calling user, and nothing else."""
    return {
        "user": f"{os.getuid()}:{os.getgid()}",
        "working_dir": str(Path.cwd()),
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "tmpfs": {"/tmp": "rw,mode=1777"},
        # Docker's own process 1, which passes signals on and waits for orphans; Python as process 1 does neither.
        "init": True,
    }


def _find_images() -> dict[str, str]:
    """The image of each step, named as KFP names it, and its id."""
    import docker

    try:
        client = docker.from_env()
    except docker.errors.DockerException as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(f"no Docker engine answers ({reason}); start one, or leave --runner out") from None
    with closing(client):
        return {_tagged(image): _image_id(client, image) for image in {built(kind_of(step)) for step in STEPS}}


def _tagged(image: str) -> str:
    """An image as KFP names it to Docker."""
    return image if ":" in image else f"{image}:latest"


def _image_id(client: Any, image: str) -> str:
    import docker

    try:
        return str(client.images.get(image).id)
    except docker.errors.ImageNotFound:
        remedy = "build it with `make images`, or name others by GAPGATE_STEP_IMAGE and GAPGATE_TRAIN_IMAGE"
        raise SettingsError(f"there is no image {image} on this machine; {remedy}") from None


@dataclass(frozen=True, slots=True)
class _Engine:
    """A Docker client with what KFP asks of one: `info`, `images.list`, `containers.run` and `close`."""

    client: Any
    steps: Steps

    @property
    def containers(self) -> _Containers:
        return _Containers(self.client, self.steps)

    @property
    def images(self) -> _Images:
        return _Images(tuple(self.steps.images))

    def info(self) -> Any:
        return self.client.info()

    def close(self) -> None:
        self.client.close()


@dataclass(frozen=True, slots=True)
class _Images:
    """The images of the steps. All of them are on this machine, so that KFP pulls none."""

    names: Sequence[str]

    def list(self) -> Sequence[Any]:
        return [SimpleNamespace(tags=list(self.names), attrs={"RepoDigests": []})]


@dataclass(frozen=True, slots=True)
class _Ended:
    """A container that has ended, and whose log was shown."""

    status: int

    def logs(self, stream: bool) -> Iterable[bytes]:
        return ()

    def wait(self) -> Mapping[str, int]:
        return {"StatusCode": self.status}


@dataclass(frozen=True, slots=True)
class _Containers:
    """The place where KFP starts a container."""

    client: Any
    steps: Steps

    def run(
        self,
        *,
        image: str,
        command: list[str],
        volumes: Mapping[str, Any],
        detach: bool,
        stdout: bool,
        stderr: bool,
        auto_remove: bool,
        **arguments: Any,
    ) -> _Ended:
        """Run one step to its end; `arguments` are those of the runner."""
        # KFP's own detach, stdout, stderr and auto_remove end here: this call waits for the container, and removes it.
        step = command[command.index("--function_to_execute") + 1]
        own = {"environment": self.steps.environment(step, image), "network_mode": self.steps.network(step)}
        container = self.client.containers.create(
            image=image, command=command, volumes={**volumes, **self.steps.volumes(step)}, **arguments | own
        )
        watcher = _removed_after_this_process(container.id)
        try:
            container.start()
            for line in container.logs(stream=True):
                print(line.decode(errors="replace"), end="")
            status = int(container.wait()["StatusCode"])
            # Any SIGKILL gives the status 137; only the state says whether it was for memory.
            container.reload()
            if container.attrs["State"]["OOMKilled"]:
                Spool(self.steps.context.spool, step).failed(_OUT_OF_MEMORY, 2)
            return _Ended(status)
        finally:
            container.remove(force=True)
            watcher.communicate()


def _removed_after_this_process(container: str) -> subprocess.Popen[bytes]:
    """A process that removes a container as soon as this one has ended, however it did: a container is a child of
    Docker's engine, and a step without its run would go on to register and promote."""
    # The pipe closes with this process; a session of its own, so that what kills this one's group spares it.
    return subprocess.Popen(
        [sys.executable, "-c", _REMOVE, container], stdin=subprocess.PIPE, start_new_session=True, close_fds=True
    )


@dataclass(frozen=True, slots=True)
class Steps:
    """The parts of this machine that the containers of one run see: folders, variables and networks."""

    settings: Settings
    context: RunContext
    images: Mapping[str, str]
    """Image → its id."""

    def volumes(self, step: str) -> dict[str, Any]:
        """The workspace's own folder, at its own place; and for ingest what it reads."""
        shared = {str(home()): {"bind": str(home()), "mode": "rw"}}
        if step != "ingest":
            return shared
        data = self.settings.data
        if data.source:
            source = Path(data.source).absolute()
            folder = str(source.parent if source.is_file() else source)  # a table names what lies beside it
            return shared | ({folder: {"bind": folder, "mode": "ro"}} if source.exists() else {})
        folder = str(Path(data.repository if Path(data.repository).is_dir() else ".").absolute())
        return shared | {folder: {"bind": folder, "mode": "rw"}}  # what is not there yet is restored

    def environment(self, step: str, image: str) -> dict[str, str]:
        """The variables of a step: the run, and the credentials of those that ask somebody."""
        passed_on = {"ingest": _REMOTE, "register": ("MLFLOW_",), "package": ("MLFLOW_",)}.get(step, ())
        return {
            # The images have an `askpass` of their own.
            **{
                name: value
                for name, value in os.environ.items()
                if name.startswith(passed_on) and name != "GIT_ASKPASS"
            },
            RUN_VARIABLE: self.context.name,
            EXPERIMENT_VARIABLE: self.context.experiment,
            DRAINED_VARIABLE: "1",
            "GAPGATE_HOME": str(home()),
            "GAPGATE_IMAGE_DIGEST": self.images.get(image, ""),
            # The caller has no home in the image, and the rest of its file system is read-only.
            "HOME": "/tmp",
        }

    def network(self, step: str) -> str:
        """The network of a step: none, except to reach the data's remote, the tracking server or pretrained weights."""
        server = urlsplit(tracking_uri())
        if step in ("register", "package") and server.scheme in ("http", "https"):
            # The loopback of a container on a bridge is its own, and not that of this machine.
            return "host" if is_loopback(server.hostname or "") else "bridge"
        if (step == "ingest" and not self.settings.data.source) or (step == "train" and self.settings.train.pretrained):
            return "bridge"
        return "none"
