"""`gapgate doctor` on this machine, and with services that are away."""

from __future__ import annotations

import shutil
from collections import namedtuple

from typer.testing import CliRunner

from cli import app


def printed(monkeypatch, tmp_path, **environment: str) -> tuple[int, str]:
    monkeypatch.setenv("COLUMNS", "300")
    for name in ("MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (environment | {"GAPGATE_HOME": str(tmp_path / "home")}).items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["doctor"])
    return done.exit_code, done.output


def test_a_machine_that_can_run_has_every_line_and_exit_code_0(monkeypatch, tmp_path):
    code, output = printed(monkeypatch, tmp_path)
    assert code == 0, output
    lines = [line.split()[1] for line in output.splitlines()[1:]]
    expected = ["gapgate", "packages", "processor", "memory", "GPU", "workspace", "Docker", "kubectl", "MLflow"]
    assert lines == [*expected, "Kubeflow"]
    assert not (tmp_path / "home").exists()


def test_services_that_are_away_are_told_without_their_passwords(monkeypatch, tmp_path):
    away = {"MLFLOW_TRACKING_URI": "http://me:hidden@127.0.0.1:9", "KF_PIPELINES_ENDPOINT": "http://127.0.0.1:9"}
    code, output = printed(monkeypatch, tmp_path, **away)
    assert code == 0
    assert "127.0.0.1:9 does not answer" in output
    assert "`gapgate sync` sends them later" in output
    assert "hidden" not in output


def test_a_full_disk_is_a_fault(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    code, output = printed(monkeypatch, tmp_path)
    assert code == 2
    assert "✗ workspace" in " ".join(output.split())
    assert "`gapgate clean` frees old runs" in output
