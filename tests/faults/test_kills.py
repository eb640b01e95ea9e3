"""Runs that are killed at random moments, one after the other in one workspace, and then left alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kills import kill, moments
from tests.faults.settings import IS_ALL, SEED
from tests.faults.workspaces import RUN, FaultWorkspace, output
from tests.waiting import wait_for

CHAINS = moments(34) if IS_ALL else [[moment for moment in moments(1)[0] if moment.victim == "run"]]


@pytest.mark.parametrize("number", range(len(CHAINS)))
def test_a_run_that_was_killed_at_random_moments_ends_as_if_nobody_had_disturbed_it(
    number: int, tmp_path: Path, empty_store: Path, undisturbed: Any, record_property: Any
) -> None:
    workspace = FaultWorkspace(tmp_path / "user").make(empty_store)
    mine = workspace.user_files()
    print(f"GAPGATE_FAULTS_SEED={SEED}, chain {number}: {'; '.join(map(str, CHAINS[number]))}")
    for moment in CHAINS[number]:
        record_property("faults", f"SIGKILL: {moment.victim}")
        run = workspace.start(*RUN)
        try:
            hit = kill(workspace, run, moment, undisturbed.durations)
        finally:
            said = output(run)
        assert hit or run.returncode == 0, (moment, said)
        wait_for(lambda: not workspace.processes())  # no orphan
        assert workspace.user_files() == mine
        workspace.check_registry()
    last = workspace.gapgate(*RUN)
    assert last.returncode == 0, last.stdout + last.stderr
    assert workspace.digests(workspace.runs()[-1]) == undisturbed.digests
    assert len(workspace.versions()) == 1
    assert workspace.aliases() == {"champion": "1"}
    workspace.check_statuses()
    workspace.check_registry()
    workspace.check_nothing_temporary()
    assert workspace.user_files() == mine
    assert not workspace.processes()


@pytest.mark.skipif(not IS_ALL, reason="`make faults` runs it")
def test_a_killed_training_goes_on_at_its_last_epoch_and_ends_with_the_same_model(
    tmp_path: Path, empty_store: Path, record_property: Any
) -> None:
    workspace = FaultWorkspace(tmp_path / "user").make(empty_store)
    run = (*RUN, "--set", "train.epochs=40", "--set", "train.ema_decay=0.9")
    record_property("faults", "SIGKILL: group")
    killed = workspace.start(*run)
    try:
        wait_for(lambda: any(workspace.home.glob("checkpoints/*/*.safetensors")), 240)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        output(killed)
    for _ in range(2):
        done = workspace.gapgate(*run)
        assert done.returncode == 0, done.stdout
    first, resumed, whole = workspace.runs()
    assert workspace.digests(resumed) == workspace.digests(whole)
    resumes = [each for each in (first, resumed, whole) if "resumed after" in (each / "spool/train.jsonl").read_text()]
    assert resumes == [resumed]
