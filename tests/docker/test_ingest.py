"""The data that a cluster gets: a commit of a git repository and DVC's remote behind it, in the image without git."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gapgate.process import child_server

INGEST = """
import json, sys
from components.execute import execute
execute("ingest", sys.argv[1], {}, "/out/dataset")
"""


def run(*command, cwd):
    identity = {"GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e@example.org"}
    identity |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in identity.items()}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | identity | {"PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def folder():
    # Not below pytest's own folder, which only its owner may enter.
    made = Path(tempfile.mkdtemp(prefix="gapgate-ingest-"))
    made.chmod(0o755)
    (made / "out").mkdir()
    (made / "out").chmod(0o777)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def commits(folder):
    """Two commits of a repository with 4 and 6 images, whose files only DVC's remote has."""
    work, remote = folder / "work", folder / "remote"
    work.mkdir()
    run("git", "init", "--quiet", cwd=work)
    run("dvc", "init", "--quiet", cwd=work)
    run("dvc", "remote", "add", "--default", "store", str(remote), cwd=work)
    rng = np.random.default_rng(0)
    made = []
    for count in (2, 3):
        for name in ("cat", "dog"):
            (work / "data" / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(work / "data" / name / f"{index}.png")
        run("dvc", "add", "--quiet", "data", cwd=work)
        run("dvc", "push", "--quiet", cwd=work)
        run("git", "add", "--all", cwd=work)
        run("git", "commit", "--quiet", "--message", f"{count} of each", cwd=work)
        made.append(run("git", "rev-parse", "HEAD", cwd=work))
    run("git", "clone", "--quiet", "--bare", str(work), str(folder / "images.git"), cwd=folder)
    shutil.rmtree(work)
    return made


@pytest.fixture(scope="module")
def repository(folder, commits):
    """Its address."""
    port = child_server.free_port()
    command = ["git", "daemon", "--export-all", f"--base-path={folder}", "--listen=127.0.0.1", f"--port={port}"]
    log = folder / "daemon.log"
    daemon = child_server.start(command, log)

    def problem():
        with socket.socket() as tried:
            return None if tried.connect_ex(("127.0.0.1", port)) == 0 else "it refuses connections"

    try:
        child_server.wait(daemon, log, "git's daemon", problem, 60)
        yield f"git://127.0.0.1:{port}/images.git"
    finally:
        child_server.stop(daemon)


def ingest(step_image, folder, **data):
    """What the step prints, and its exit status; the files are in `out/dataset`."""
    shutil.rmtree(folder / "out" / "dataset", ignore_errors=True)
    limits = [
        "--user",
        f"{os.getuid()}:{os.getgid()}",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--cap-drop",
        "ALL",
        "--network",
        "host",
    ]
    mounts = ["--volume", f"{folder}/remote:{folder}/remote:ro", "--volume", f"{folder}/out:/out", "--workdir", "/out"]
    command = ["docker", "run", "--rm", *limits, *mounts, step_image.tags[0], "python", "-c", INGEST]
    done = subprocess.run([*command, json.dumps(data)], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_exactly_the_commit_that_was_asked_for_comes_by_way_of_the_remote(step_image, folder, repository, commits):
    hashes = set()
    for commit, count in zip(commits, (4, 6), strict=True):
        code, printed = ingest(step_image, folder, repository=repository, revision=commit, path="data")
        assert code == 0, printed
        facts = json.loads((folder / "out/dataset/dataset.json").read_text())
        assert facts["revision"] == commit
        assert len(list((folder / "out/dataset/files").rglob("*.png"))) == count
        hashes.add(facts["dvc_hash"])
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"revision": "0" * 40}, "DataError", "0000000"),
        ({"path": "pictures"}, "DataError", "pictures"),
        ({"repository": "git://127.0.0.1:9/x"}, "RemoteAwayError", "127.0.0.1:9"),
    ],
)
def test_what_is_not_there_is_named(step_image, folder, repository, commits, change, error, message):
    code, printed = ingest(
        step_image, folder, **{"repository": repository, "revision": commits[0], "path": "data"} | change
    )
    assert code != 0
    last = printed.strip().splitlines()[-1]
    assert error in last
    assert message in last
