"""Commands in one workspace at once: runs, and runs with `gapgate clean`, `sync` and `models` beside them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.faults.settings import IS_ALL
from tests.faults.workspaces import RUN, FaultWorkspace, output

pytestmark = pytest.mark.skipif(not IS_ALL, reason="`make faults` runs it")


def test_runs_of_one_training_at_once_make_one_version_and_one_champion(
    tmp_path: Path, undisturbed: Any, record_property: Any
) -> None:
    """They make the store at once, too."""
    workspace = FaultWorkspace(tmp_path / "user").make()
    mine = workspace.user_files()
    record_property("faults", ("at once: runs", 4))
    runs = [workspace.start(*RUN) for _ in range(4)]
    printed = [output(run, 600) for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, printed
    assert {tuple(workspace.digests(run).items()) for run in workspace.runs()} == {tuple(undisturbed.digests.items())}
    check(workspace, mine)
    assert len(workspace.versions()) == 1


def test_runs_of_different_models_at_once_make_the_one_champion_that_the_rule_gives(
    tmp_path: Path, empty_store: Path, record_property: Any
) -> None:
    workspace = FaultWorkspace(tmp_path / "user").make(empty_store)
    mine = workspace.user_files()
    record_property("faults", ("at once: runs", 3))
    runs = [workspace.start(*RUN, "--set", f"train.seed={seed}") for seed in range(3)]
    printed = [output(run, 600) for run in runs]
    assert [run.returncode for run in runs] == [0] * 3, printed
    check(workspace, mine)
    versions = workspace.versions()
    assert len(versions) == 3
    # A version is judged once, against the champion of that moment; the line of champions ends at the one that is.
    champion = workspace.aliases()["champion"]
    line = [champion]
    while previous := versions[line[-1]].get("gapgate.previous_champion"):
        line.append(previous)
    promoted = [version for version, tags in versions.items() if '"alias": "champion"' in tags["gapgate.promotion"]]
    assert sorted(line) == sorted(promoted)
    firsts = [tags for tags in versions.values() if "the first version that passed" in tags["gapgate.promotion"]]
    assert len(firsts) == 1


def test_cleaning_while_a_run_works_takes_nothing_that_is_needed(
    tmp_path: Path, empty_store: Path, record_property: Any
) -> None:
    workspace = FaultWorkspace(tmp_path / "user").make(empty_store)
    mine = workspace.user_files()
    first = workspace.gapgate(*RUN)
    assert first.returncode == 0, first.stdout
    run = workspace.start(*RUN, "--set", "train.seed=1")
    commands = itertools.cycle([("clean", "--yes", "--keep", "0"), ("sync",), ("models",)])
    while run.poll() is None:
        record_property("faults", "at once: a command beside a run")
        beside = workspace.gapgate(*next(commands))
        assert beside.returncode == 0, beside.stdout + beside.stderr
    said = output(run)
    assert run.returncode == 0, said
    champion = workspace.versions()[workspace.aliases()["champion"]]["gapgate.run"]
    assert workspace.digests(workspace.home / "runs" / champion)  # whole
    check(workspace, mine)


def check(workspace: FaultWorkspace, mine: dict[str, str]) -> None:
    """Nothing is left, nothing is lost, and MLflow says what is so."""
    assert workspace.user_files() == mine
    assert not workspace.processes()
    workspace.check_registry()
    workspace.check_statuses()
    workspace.check_nothing_temporary()
    assert set(workspace.statuses().values()) == {"FINISHED"}
