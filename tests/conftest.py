"""Real data, where the machine has it; an empty MLflow store; and Ctrl-C, which a shell takes from what it starts in
the background."""

import gzip
import os
import signal
import struct
from contextlib import nullcontext
from pathlib import Path

import pytest

from gapgate.process import fork_server
from pipelines.local.runner import IMPORTED

# Four workers share two cores: a thread of OpenMP that waits for its team must not spin, since the one it waits for
# may need its core. It cost the tests that train 14 % of processor time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # programs that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # after `nohup` too
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


TOGETHER = (
    ("tests/docker/",),
    ("tests/serving/",),
    ("tests/components/",),
    ("tests/end_to_end/test_run.py", "tests/end_to_end/test_python_api.py"),
)
"""Tests that share images, a server or a run of a session, by the beginnings of their paths; what takes longest first.
Spread over four processes they would make these four times, a minute and a half of processor time, and wait for each
other's images."""


@pytest.hookimpl(optionalhook=True)  # the mutation run leaves xdist out
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadfile` tests of `TOGETHER` go to one process, as those of a file do."""
    from xdist.scheduler.loadfile import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return next((places[0] for places in TOGETHER if nodeid.startswith(places)), super()._split_scope(nodeid))

    return Together(config, log) if config.option.dist == "loadfile" else None


def pytest_collection_modifyitems(items):
    """First what one process does for minutes, or the others would have nothing left to do beside it."""
    items.sort(
        key=lambda item: next((n for n, places in enumerate(TOGETHER) if item.nodeid.startswith(places)), len(TOGETHER))
    )


@pytest.fixture(scope="session", autouse=True)
def imported_steps():
    """One server with the modules of the steps for all runs of a session, where each run would start its own: 6 s of
    processor time. `digits_run` in tests/end_to_end has its own, and each mutant would be a session."""
    with nullcontext() if "GAPGATE_MUTANTS" in os.environ else fork_server.running(IMPORTED):
        yield


@pytest.fixture(autouse=True)
def environment():
    """The process's environment as it was before each test: credentials of an address go to variables, which would
    reach the tests after it."""
    before = os.environ.copy()
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def test_data():
    """The folder that GAPGATE_TEST_DATA names: `fashion-mnist/` and `mnist/` as IDX files."""
    if not (folder := os.environ.get("GAPGATE_TEST_DATA")):
        pytest.skip("GAPGATE_TEST_DATA names no folder with the IDX files of MNIST and Fashion-MNIST")
    return Path(folder)


@pytest.fixture(scope="session")
def fashion_subset(test_data, tmp_path_factory):
    """The first 6,000 + 1,000 images of the real Fashion-MNIST, in its own format."""
    folder = tmp_path_factory.mktemp("fashion")
    for prefix, count in (("train", 6000), ("t10k", 1000)):
        for kind, header, size in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
            name = f"{prefix}-{kind}-ubyte.gz"
            with gzip.open(test_data / "fashion-mnist" / name) as file:
                head, body = file.read(header), file.read(count * size)
            with gzip.open(folder / name, "wb") as file:
                file.write(head[:4] + struct.pack(">I", count) + head[8:] + body)
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """MLflow's database with no run in it. It is made once, by 3 s of processor time for MLflow's migrations, and where
    an earlier try was killed, because that must not matter."""
    home = tmp_path_factory.mktemp("store")
    (home / f".mlflow.db.partial-{os.getpid()}").write_bytes(b"SQLite format 3\0 and no more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAPGATE_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        from components.platform.tracking.mlflow_client import client

        client()
    return home / "mlflow.db"
