"""`gapgate run --runner docker`: the pipeline in the project's own images, against the same in subprocesses."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import docker
import pytest

from components.platform.run_context import RunContext
from gapgate import artifacts
from gapgate.settings.sections import Settings
from pipelines.local.docker_runner import containers
from tests.end_to_end.workspace import QUICK, Workspace

USER = 12_345
"""Calls the command where the tests run as root: nobody in particular, who may speak to the engine."""
SOCKET = Path("/var/run/docker.sock")
KINDS = ("dataset", "splits", "policy", "model", "evaluation", "certificate")


class User(Workspace):
    """A workspace of somebody who is not root."""

    def command(self, *arguments):
        if os.getuid() != 0:
            return super().command(*arguments)
        identity = ("--reuid", USER, "--regid", USER, "--groups", SOCKET.stat().st_gid)
        reads = (
            "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search",
        )  # Python may lie in root's own folder
        return [str(word) for word in ("setpriv", *identity, *reads, *super().command(*arguments))]

    def environment(self, **extra):
        return super().environment(HOME=str(self.folder)) | extra

    def artifact(self, run, kind):
        (manifest,) = (self.folder / ".gapgate/runs" / run / "artifacts").glob(f"*/*/{kind}/manifest.json")
        return artifacts.load(manifest.parent, kind, verify_trees=True)

    def runs(self):
        return sorted(path.name for path in (self.folder / ".gapgate/runs").iterdir())


@pytest.fixture(scope="module")
def images(step_image, train_image):
    return {"GAPGATE_STEP_IMAGE": step_image.tags[0], "GAPGATE_TRAIN_IMAGE": train_image.tags[0]}


@pytest.fixture(scope="module")
def user():
    # Not below pytest's own folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="gapgate-docker-"))
    os.chown(folder, USER if os.getuid() == 0 else -1, -1)
    yield User(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def in_containers(user, images):
    """The name of a run of the whole pipeline."""
    done = user.gapgate("run", "digits", "--runner", "docker", *QUICK, **images)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = user.runs()
    return run


def test_the_artifacts_have_the_digests_that_they_have_without_containers(user, in_containers):
    done = user.gapgate("run", "digits", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    (in_processes,) = set(user.runs()) - {in_containers}
    for kind in KINDS:
        assert user.artifact(in_containers, kind).digest == user.artifact(in_processes, kind).digest, kind


def test_everything_belongs_to_who_called(user, in_containers):
    caller = USER if os.getuid() == 0 else os.getuid()
    owners = {path.lstat().st_uid for path in (user.folder / ".gapgate" / "runs" / in_containers).rglob("*")}
    assert owners == {caller}


def test_the_manifests_name_the_images(user, in_containers, step_image, train_image):
    made_in = {kind: user.artifact(in_containers, kind).manifest.image_digest for kind in KINDS}
    for kind, image in made_in.items():
        assert image == (train_image.id if kind in ("policy", "model") else step_image.id)


def test_steps_have_no_network_no_capabilities_and_a_root_that_nobody_can_write(engine, user, images):
    """Read off the containers while they run."""
    seen = {}
    events = engine.events(decode=True, filters={"type": "container", "event": "start"})
    process = subprocess.Popen(
        user.command("run", "digits", "--runner", "docker", *QUICK),
        cwd=user.folder,
        env=user.environment(**images),
        stdout=subprocess.DEVNULL,
    )
    try:
        for event in events:
            container = engine.containers.get(event["id"]).attrs
            command = container["Args"]
            if "--function_to_execute" in command:
                seen[command[command.index("--function_to_execute") + 1]] = container["HostConfig"]
            if "package" in seen:
                break
    finally:
        events.close()
    assert process.wait(timeout=300) == 0
    assert len(seen) == 8
    for step, host in seen.items():
        assert host["NetworkMode"] == "none", step  # digits and a local store: nothing to ask anybody
        assert host["CapDrop"] == ["ALL"]
        assert host["ReadonlyRootfs"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert not host["Privileged"]


def test_without_our_engine_kfps_containers_would_be_locked_too(engine, images, monkeypatch):
    """A kfp that makes its Docker client in another way gives containers these arguments alone."""
    for name, image in images.items():
        monkeypatch.setenv(name, image)
    before = docker.from_env
    with containers(Settings(), RunContext("run")) as runner:
        given = runner.container_run_args
        with contextlib.closing(docker.from_env()) as ours:
            assert {tag for found in ours.images.list() for tag in found.tags} == set(images.values())
    assert docker.from_env is before
    assert (given["network_mode"], given["cap_drop"], given["read_only"]) == ("none", ["ALL"], True)
    assert given["user"] == f"{os.getuid()}:{os.getgid()}"


def test_a_mistake_inside_a_container_is_told_in_its_own_words(user, images):
    settings = ("--set", "train.flip_average=true")
    done = user.gapgate("run", "digits", "--runner", "docker", *settings, **images)
    assert done.returncode == 2
    assert "train.flip_average" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_an_image_that_is_not_there_is_named_with_the_remedy_and_no_run_is_begun(user, images):
    before = user.runs()
    done = user.gapgate("run", "digits", "--runner", "docker", **images | {"GAPGATE_STEP_IMAGE": "gapgate/step:none"})
    assert done.returncode == 2
    assert "there is no image gapgate/step:none on this machine; build it with `make images`" in done.stderr
    assert user.runs() == before


def test_without_an_engine_it_says_so(tmp_path):
    done = Workspace(tmp_path).gapgate("run", "digits", "--runner", "docker", DOCKER_HOST=f"unix://{tmp_path}/none")
    assert done.returncode == 2
    assert "no Docker engine answers" in done.stderr
