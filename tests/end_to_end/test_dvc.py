"""The same steps as DVC stages, in a real git and DVC repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository with this project's data.dvc, dvc.yaml and quick settings, reproduced once."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("data.dvc", "dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"] |= {"architecture": "tutorial", "epochs": 4, "batch_size": 32}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / ".gitignore").write_text("/data\n/artifacts\n/.gapgate\n")
    call("git", "init", "-q", cwd=root)
    call(*GIT, "add", "-A", cwd=root)
    call(*GIT, "commit", "-qm", "set up", cwd=root)
    call("gapgate", "data", "restore", cwd=root)
    call("dvc", "repro", cwd=root)
    call(*GIT, "add", "-A", cwd=root)
    call(*GIT, "commit", "-qm", "reproduce", cwd=root)
    return root


GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org")


def call(*command, cwd):
    folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "GIT_CONFIG_COUNT": "2"}
    environment |= {"GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "t"}
    environment |= {"GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "t@example.org"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_second_repro_does_nothing(repository):
    assert "Data and pipelines are up to date" in call("dvc", "repro", cwd=repository)


def test_metrics_are_shown_and_compared(repository):
    shown = json.loads(call("dvc", "metrics", "show", "--json", cwd=repository))
    figures = shown[""]["data"]["artifacts/evaluation/metrics.json"]["data"]
    assert figures["test_accuracy"] > 0.9
    assert figures["gap_low"] <= figures["gap_points"] <= figures["gap_high"]


def test_an_experiment_with_another_setting_runs_only_what_depends_on_it(repository):
    out = call("dvc", "exp", "run", "-S", "train.epochs=2", cwd=repository)
    assert "Running stage 'train'" in out
    assert "Running stage 'preprocess'" not in out
    assert "Running stage 'augment'" not in out
    difference = json.loads(call("dvc", "metrics", "diff", "--json", cwd=repository))
    assert "gap_points" in difference["artifacts/evaluation/metrics.json"]


def test_an_experiment_that_the_gate_stops_is_kept_without_a_bento(repository):
    call("dvc", "exp", "run", "-S", "gate.max_gap_points=-50", cwd=repository)
    assert json.loads((repository / "artifacts" / "certificate" / "certificate.json").read_text())["verdict"] == "fail"
    assert not list((repository / "artifacts" / "bento").iterdir())


def test_plots_show_the_learning_curves(repository):
    call("dvc", "plots", "show", "-o", "plots", cwd=repository)
    page = (repository / "plots" / "index.html").read_text()
    assert "Loss by epoch" in page
    assert "val_loss" in page
