"""The manifests' own commands on a real PostgreSQL: migrations, the server by its Service's name, backup, restore."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from gapgate.process import child_server
from tests.infra.postgres import Postgres, running
from tests.infra.rendered import Object, environment, of_kind, one

pytest.importorskip("psycopg", reason="MLflow speaks to PostgreSQL by psycopg")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the ConfigMap mounts at /scripts."""
    folder = tmp_path_factory.mktemp("scripts")
    (found,) = [each for each in of_kind("local", "ConfigMap") if each["metadata"]["name"].startswith("mlflow-scripts")]
    for name, text in found["data"].items():
        (folder / name).write_text(text)
    return folder


def settings() -> dict[str, str]:
    """What the ConfigMap `mlflow` gives to MLflow."""
    (found,) = [
        each for each in of_kind("local", "ConfigMap") if re.fullmatch(r"mlflow-[a-z0-9]{10}", each["metadata"]["name"])
    ]
    return dict(found["data"])


def container(kind: str, name: str, *, init: bool = False, overlay: str = "local") -> Object:
    found = one(overlay, kind, name)["spec"]
    template = found["jobTemplate"]["spec"]["template"] if kind == "CronJob" else found["template"]
    return dict(template["spec"]["initContainers" if init else "containers"][0])


def command(container: Object, address: str, scripts: Path) -> list[str]:
    """A container's command as Kubernetes would start it, with this interpreter and these mounts."""
    words = [*container["command"], *container.get("args", [])]
    words = [word.replace("$(MLFLOW_BACKEND_STORE_URI)", address) for word in words]
    words = [word.replace("/scripts/", f"{scripts}/") for word in words]
    return [sys.executable if word == "python" else word for word in words]


def run(
    postgres: Postgres, container: Object, address: str, scripts: Path, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(container, address, scripts),
        env=os.environ
        | {"PATH": f"{postgres.binaries}:{os.environ['PATH']}"}
        | environment(container)
        | settings()
        | {"MLFLOW_BACKEND_STORE_URI": address}
        | dict(variables),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def store(postgres: Postgres, scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a database that the migration job prepared for basic-auth while a server waited for it."""
    address = postgres.database("mlflow")
    users = tmp_path_factory.mktemp("auth") / "basic_auth.ini"
    keys = {"default_permission": "READ", "admin_username": "admin", "database_uri": address.replace("%", "%%")}
    users.write_text("\n".join(["[mlflow]", *(f"{key} = {value}" for key, value in keys.items())]))
    wait = container("Deployment", "mlflow", init=True, overlay="production")
    migrate = container("Job", "mlflow-migrate", overlay="production")
    for each in (wait, migrate):
        assert environment(each)["MLFLOW_AUTH_CONFIG_PATH"] == "/auth/basic_auth.ini"
    auth = {"MLFLOW_AUTH_CONFIG_PATH": str(users)}
    variables = os.environ | settings() | auth | {"MLFLOW_BACKEND_STORE_URI": address}
    with subprocess.Popen(command(wait, address, scripts), env=variables, stdout=subprocess.PIPE, text=True) as waiting:
        try:
            assert waiting.stdout is not None
            assert "the schema of MLflow is None" in waiting.stdout.readline()
            done = run(postgres, migrate, address, scripts, auth)
            assert done.returncode == 0, done.stderr
            assert waiting.wait(60) == 0
        finally:
            waiting.kill()
    return address


@pytest.fixture(scope="module")
def run_id(store: str) -> str:
    """A run in that database."""
    client = MlflowClient(store)
    experiment = client.create_experiment("flowers", artifact_location="mlflow-artifacts:/flowers")
    logged = client.create_run(experiment)
    client.log_metric(logged.info.run_id, "gap/points", 1.25)
    return str(logged.info.run_id)


def backup(postgres: Postgres, scripts: Path, store: str, folder: Path, **variables: str) -> list[str]:
    """Run the nightly job; returns the dumps' names."""
    folder.mkdir(exist_ok=True)
    job = container("CronJob", "mlflow-backup")
    done = run(postgres, job, store, scripts, {"BACKUP_DIR": str(folder)} | variables)
    assert done.returncode == 0, done.stderr
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".sha256")


def restore(
    postgres: Postgres, scripts: Path, address: str, folder: Path, file: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    job = container("CronJob", "mlflow-restore")
    return run(postgres, job, address, scripts, {"BACKUP_DIR": str(folder), "RESTORE_FILE": file} | variables)


def test_the_tables_of_users_are_there_before_a_server_starts(postgres: Postgres, store: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", postgres.query(store, "SELECT version_num FROM alembic_version_auth"))
    assert postgres.query(store, "SELECT count(*) FROM users") == "0"


def test_a_server_says_within_seconds_that_its_database_is_silent(scripts: Path) -> None:
    wait = container("Deployment", "mlflow", init=True)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes the connection, and nobody answers
        address = f"postgresql://mlflow@127.0.0.1:{silent.getsockname()[1]}/mlflow"
        variables = os.environ | settings() | {"MLFLOW_BACKEND_STORE_URI": address}
        with subprocess.Popen(command(wait, address, scripts), env=variables, stdout=subprocess.PIPE) as waiting:
            try:
                assert waiting.stdout is not None
                ready, _, _ = select.select([waiting.stdout], [], [], 120)
                assert ready, "nothing was said for two minutes"
                assert waiting.stdout.readline().startswith(b"the database does not answer")
            finally:
                waiting.kill()


def test_a_run_is_found_again_after_a_backup_is_restored(
    postgres: Postgres, scripts: Path, store: str, run_id: str, tmp_path: Path
) -> None:
    backup(postgres, scripts, store, tmp_path / "backups")
    other = postgres.database("restored")
    postgres.query(other, "CREATE TABLE runs (left_over int)")

    assert restore(postgres, scripts, other, tmp_path / "backups").returncode == 0
    assert MlflowClient(other).get_run(run_id).data.metrics == {"gap/points": 1.25}

    # What was restored can be backed up and restored as well.
    (again,) = backup(postgres, scripts, other, tmp_path / "again")
    postgres.query(other, "DELETE FROM latest_metrics; DELETE FROM metrics")
    assert restore(postgres, scripts, other, tmp_path / "again", again).returncode == 0
    assert MlflowClient(other).get_run(run_id).data.metrics == {"gap/points": 1.25}


def test_a_restore_that_fails_changes_nothing(
    postgres: Postgres, scripts: Path, store: str, run_id: str, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    (dump,) = backup(postgres, scripts, store, folder)
    whole = (folder / dump).read_bytes()
    middle = len(whole) // 2
    for broken in (whole[:-1], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        (folder / dump).write_bytes(broken)
        refused = restore(postgres, scripts, store, folder, dump, RESTORE_CHECK="1")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith(f"error: {dump} is not what was written: its sha256 differs")
    missing = restore(postgres, scripts, store, tmp_path / "backups", "mlflow-19700101T000000Z.dump")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: there is no dump mlflow-19700101T000000Z.dump")
    assert dump in missing.stderr
    # A dump that fails in the middle of its statements: only a superuser may make such a publication.
    foreign = postgres.database("elsewhere")
    postgres.query(foreign, "CREATE TABLE t (x int)")
    postgres.query("elsewhere", "CREATE PUBLICATION p FOR ALL TABLES")
    (odd,) = backup(postgres, scripts, foreign, tmp_path / "odd")
    assert restore(postgres, scripts, store, tmp_path / "odd", odd, RESTORE_CHECK="1").returncode == 0
    assert "must be superuser" in restore(postgres, scripts, store, tmp_path / "odd", odd).stderr
    assert postgres.query(store, f"SELECT status FROM runs WHERE run_uuid = '{run_id}'") == "RUNNING"


def test_a_dump_without_a_sha256_is_taken_only_on_purpose(postgres: Postgres, scripts: Path, tmp_path: Path) -> None:
    address = postgres.database("unchecked")
    postgres.query(address, "CREATE TABLE t (x int)")
    (dump,) = backup(postgres, scripts, address, tmp_path)
    (tmp_path / f"{dump}.sha256").unlink()
    postgres.query(address, "DROP TABLE t")
    refused = restore(postgres, scripts, address, tmp_path)
    assert refused.returncode == 2
    assert f"`infra/restore --unchecked {dump}` takes it" in refused.stderr
    assert restore(postgres, scripts, address, tmp_path, RESTORE_UNCHECKED="1").returncode == 0
    assert postgres.query(address, "SELECT count(*) FROM t") == "0"


def test_every_schema_is_as_it_was_after_a_restore(postgres: Postgres, scripts: Path, tmp_path: Path) -> None:
    address = postgres.database("schemas")
    odd = '"a b""c"'
    postgres.query(address, f"CREATE TABLE t (x int); CREATE SCHEMA {odd}; CREATE TABLE {odd}.t AS SELECT 1 AS x")
    postgres.query(address, "CREATE SCHEMA audit; CREATE TABLE audit.t AS SELECT 2 AS x")
    backup(postgres, scripts, address, tmp_path)
    postgres.query(address, f"DROP SCHEMA audit CASCADE; DELETE FROM {odd}.t; CREATE TABLE {odd}.newer (x int)")
    postgres.query(address, "CREATE SCHEMA others; CREATE TABLE others.t AS SELECT 3 AS x")
    done = restore(postgres, scripts, address, tmp_path)
    assert done.returncode == 0, done.stderr
    assert postgres.query(address, f"SELECT x FROM {odd}.t UNION SELECT x FROM audit.t ORDER BY x") == "1\n2"
    assert postgres.query(address, "SELECT count(*) FROM pg_tables WHERE tablename = 'newer'") == "0"
    # Of a schema that came after the dump nothing is known here.
    assert postgres.query(address, "SELECT x FROM others.t") == "3"


def test_the_newest_dumps_are_kept(postgres: Postgres, scripts: Path, store: str, tmp_path: Path) -> None:
    old = [f"mlflow-2020010{day}T021700Z.dump" for day in (1, 2, 3)]
    for name in [*old, f"{old[0]}.sha256", "mlflow-20200104T021700Z.dump.partial", "notes.txt"]:
        (tmp_path / name).write_text("x")
    *kept, newest, others = backup(postgres, scripts, store, tmp_path, BACKUP_KEEP="3")
    assert kept == old[1:]
    assert newest > old[-1]
    assert others == "notes.txt"
    assert [path.name for path in tmp_path.glob("*.sha256")] == [f"{newest}.sha256"]


def test_no_dump_takes_a_place_when_the_database_is_away(postgres: Postgres, scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow-20200101T021700Z.dump").write_text("x")
    job = container("CronJob", "mlflow-backup")
    away = f"postgresql://mlflow@127.0.0.1:{child_server.free_port()}/mlflow"
    given = {"BACKUP_DIR": str(tmp_path), "BACKUP_KEEP": "1", "DATABASE_TRIES": "2"}
    assert run(postgres, job, away, scripts, given).returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow-20200101T021700Z.dump"]


def test_the_server_answers_to_its_service_name_alone_and_takes_artifacts(
    postgres: Postgres, scripts: Path, store: str, run_id: str, tmp_path: Path
) -> None:
    port = child_server.free_port()
    server = container("Deployment", "mlflow")
    words = [str(port) if word == "5000" else word for word in command(server, store, scripts)]
    variables = {"MLFLOW_BACKEND_STORE_URI": store, "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "artifacts")}
    log, url = tmp_path / "server.log", f"http://127.0.0.1:{port}"
    process = child_server.start(words, log, env=os.environ | settings() | variables, cwd=tmp_path)
    try:
        child_server.wait(process, log, "MLflow's server", lambda: child_server.unanswered(f"{url}/health"), 120)
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            runs = f"/api/2.0/mlflow/runs/get?run_id={run_id}"
            for host in ("mlflow.gapgate.svc:5000", "mlflow:5000", "localhost:15000", "127.0.0.1:8080", "localhost"):
                assert client.get(runs, headers={"host": host}).status_code == 200
            for host in ("mlflow.gapgate.svc:5000.evil.example", "evil.example", "localhost.evil.example:5000"):
                assert client.get(runs, headers={"host": host}).status_code == 403
                assert client.get("/health", headers={"host": host}).status_code == 200
            artifact = "/api/2.0/mlflow-artifacts/artifacts/flowers/report.html"
            named = {"host": "mlflow.gapgate.svc:5000"}
            assert client.put(artifact, content=b"<html>", headers=named).status_code == 200
            assert (tmp_path / "artifacts/flowers/report.html").read_bytes() == b"<html>"
    finally:
        child_server.stop(process, 60, whole_group=True)
