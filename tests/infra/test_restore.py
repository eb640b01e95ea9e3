"""`infra/restore` on a cluster whose jobs really run restore.sh on a real PostgreSQL; kubectl is a stand-in."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.postgres import Postgres, running
from tests.infra.rendered import INFRA

SCRIPTS = INFRA / "kubernetes/base"
KUBECTL = '''#!{python}
"""kubectl for a namespace whose jobs run restore.sh; a job whose name matches $PENDING never gets a node."""
import os, pathlib, re, subprocess, sys
import yaml

folder = pathlib.Path("{folder}")
words = [word for word in sys.argv[1:] if word not in ("-n", "gapgate")]
line = " ".join(words)
with (folder / "calls").open("a") as calls:
    calls.write(line + "\\n")
name = next((w.removeprefix("job/") for w in words if w.startswith(("mlflow-restore", "job/mlflow"))), "")
log, code, pending = folder / f"{{name}}.log", folder / f"{{name}}.code", os.environ.get("PENDING", "^$")
if line.startswith("get deployment mlflow"):
    print("2", end="")
elif line.startswith("create job"):
    container = {{"name": "restore", "image": "postgres", "env": []}}
    spec = {{"template": {{"spec": {{"restartPolicy": "Never", "containers": [container]}}}}}}
    print(yaml.safe_dump({{"apiVersion": "batch/v1", "kind": "Job", "metadata": {{"name": name}}, "spec": spec}}))
elif line.startswith("set env --local"):
    os.execv("{kubectl}", ["kubectl", *sys.argv[1:]])
elif line.startswith("create -f -"):
    job = yaml.safe_load(sys.stdin)
    name = job["metadata"]["name"]
    given = job["spec"]["template"]["spec"]["containers"][0]["env"]
    if not re.search(pending, name):
        done = subprocess.run(
            ["bash", "{scripts}/restore.sh"], capture_output=True, text=True,
            env=os.environ | {{each["name"]: each.get("value", "") for each in given}},
        )
        (folder / f"{{name}}.log").write_text(done.stdout + done.stderr)
        (folder / f"{{name}}.code").write_text(str(done.returncode))
elif line.startswith("get job"):
    if code.exists():
        print("SuccessCriteriaMet Complete" if code.read_text() == "0" else "FailureTarget Failed", end="")
elif line.startswith("logs"):
    print(log.read_text(), end="")
elif line.startswith("get pods"):
    print("the-pod", end="")
elif line.startswith("get pod the-pod"):
    print("Pending 0/1 nodes are available: 1 Insufficient memory.", end="")
'''


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture
def environment(postgres: Postgres, tmp_path: Path) -> dict[str, str]:
    """Variables of a cluster with a database of one row, and one dump of it."""
    kubectl = shutil.which("kubectl") or pytest.skip("kubectl is not installed")
    address = postgres.database(re.sub(r"\W", "_", tmp_path.name))
    postgres.query(address, "CREATE TABLE t AS SELECT 1 AS x")
    (tmp_path / "kubectl").write_text(
        KUBECTL.format(python=sys.executable, folder=tmp_path, kubectl=kubectl, scripts=SCRIPTS)
    )
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "backups").mkdir()
    environment = os.environ | {
        "PATH": f"{tmp_path}:{postgres.binaries}:{os.environ['PATH']}",
        "BACKUP_DIR": str(tmp_path / "backups"),
        "BACKUP_KEEP": "3",
        "MLFLOW_BACKEND_STORE_URI": address,
    }
    subprocess.run(["bash", SCRIPTS / "backup.sh"], env=environment, check=True, timeout=60)
    postgres.query(address, "UPDATE t SET x = 2")
    return environment


def restore(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([INFRA / "restore", *words], env=environment, capture_output=True, text=True, timeout=120)


def changes(tmp_path: Path) -> list[str]:
    """The calls that change the cluster, without the time in the names of jobs."""
    calls = re.sub(r"-\d{14}", "", (tmp_path / "calls").read_text()).splitlines()
    return [call.partition(" --from")[0] for call in calls if call.startswith(("create job", "scale", "delete"))]


CHECKED = ["create job mlflow-restore-check"]
STOPPED = [*CHECKED, "scale deployment mlflow --replicas=0", "create job mlflow-restore"]
STARTED = "scale deployment mlflow --replicas=2"
ENDED = "delete job mlflow-restore --ignore-not-found --cascade=foreground --timeout=2m"


def state(postgres: Postgres, environment: dict[str, str]) -> str:
    return postgres.query(environment["MLFLOW_BACKEND_STORE_URI"], "SELECT x FROM t")


def test_the_dump_is_looked_at_then_mlflow_is_stopped_and_started(
    postgres: Postgres, environment: dict[str, str], tmp_path: Path
) -> None:
    done = restore(environment)
    assert done.returncode == 0, done.stderr
    assert state(postgres, environment) == "1"
    assert changes(tmp_path) == [*STOPPED, STARTED]
    assert "restored " in done.stdout


def test_mlflow_goes_on_where_no_dump_is_whole(postgres: Postgres, environment: dict[str, str], tmp_path: Path) -> None:
    (dump,) = (tmp_path / "backups").glob("*.dump")
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    for words, reason in (((), "its sha256 differs"), (("mlflow-1970.dump",), f"it has: {dump.name}")):
        refused = restore(environment, *words)
        assert refused.returncode == 1
        assert reason in refused.stdout
        assert "MLflow was not stopped" in refused.stderr
    assert changes(tmp_path) == CHECKED * 2
    assert state(postgres, environment) == "2"
    dump.with_suffix(".dump.sha256").unlink()
    assert "--unchecked" in restore(environment).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_restore_that_is_cut_off_ends_its_job_and_then_starts_mlflow(
    postgres: Postgres, environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    pending = environment | {"PENDING": "mlflow-restore-[0-9]"}
    with subprocess.Popen([INFRA / "restore"], env=pending, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        waits = next((line for line in process.stdout if "Pending" in line), "")
        assert "Insufficient memory" in waits
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert changes(tmp_path) == [*STOPPED, ENDED, STARTED]
    assert state(postgres, environment) == "2"
