"""The log of a step that runs alone: what is printed of its events, and how its end is read back out of a noisy log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from components.platform.step_log import Ending, StepLog, duration, ending_in, error_in

NOISE = """\
I1126 08:01:02.000000      18 launcher_v2.go:216] publish success.
[KFP Executor 2026-11-26 08:01:02,103 INFO]: Looking for component `gate` in --component_module_path
gate: done in 9.9 s: not ours
"""


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """The lines that a step prints for these events."""

    def printed(*events: dict[str, Any], step: str = "train") -> list[str]:
        log = StepLog(step)
        for event in events:
            log.show(event)
        return capsys.readouterr().out.splitlines()

    return printed


def progress(time: float, done: int, note: str = "", total: int = 100) -> dict[str, Any]:
    return {"kind": "progress", "time": time, "done": done, "total": total, "unit": "images", "note": note}


STARTED = {"kind": "started", "time": 1000.0}


def test_a_count_is_printed_once_in_ten_seconds(printed: Callable[..., list[str]]) -> None:
    events = [progress(1000.0 + second, done=second) for second in range(1, 31)]
    assert printed(STARTED, *events) == [
        "gapgate: train: 10/100 images; 1 min 30 s left",
        "gapgate: train: 20/100 images; 1 min 20 s left",
        "gapgate: train: 30/100 images; 1 min 10 s left",
    ]


def test_a_new_note_is_printed_at_once_and_the_same_one_waits_its_turn(printed: Callable[..., list[str]]) -> None:
    lines = printed(
        STARTED,
        progress(1001, 10, "epoch 1/10, val 50.0 %"),
        progress(1002, 20, "epoch 2/10, val 60.0 %"),
        progress(1003, 20, "epoch 2/10, val 60.0 %"),
        progress(1013, 20, ""),
    )
    assert lines == [
        "gapgate: train: epoch 1/10, val 50.0 %",
        "gapgate: train: epoch 2/10, val 60.0 %; 8 s left",
        "gapgate: train: 20/100 images; 1 min 36 s left",
    ]


def test_the_time_left_counts_from_the_first_event_so_that_a_resumed_training_is_not_thought_fast(
    printed: Callable[..., list[str]],
) -> None:
    lines = printed(STARTED, progress(1005, 80, "epoch 8/10"), progress(1025, 90, "epoch 9/10"))
    assert lines[-1] == "gapgate: train: epoch 9/10; 20 s left"


def test_the_time_left_of_a_second_count_is_its_own(printed: Callable[..., list[str]]) -> None:
    """A fine-tuning counts batches after the images of which it has the features; each fold counts anew."""
    counts = [progress(1000, 50), progress(1001, 100), progress(1010, 10), progress(1030, 20)]
    assert printed(STARTED, *counts)[-1] == "gapgate: train: 20/100 images; 2 min 40 s left"


def test_nothing_is_left_at_the_end_and_nothing_is_divided_by_no_progress(printed: Callable[..., list[str]]) -> None:
    lines = printed(STARTED, progress(1001, 50, "a"), progress(1002, 50, "b"), progress(1003, 100, "c"))
    assert lines == ["gapgate: train: a", "gapgate: train: b", "gapgate: train: c"]


def test_the_loss_of_a_training_is_drawn_behind_each_epoch(printed: Callable[..., list[str]]) -> None:
    losses = [
        {"kind": "metrics", "time": 1000.0 + epoch, "at": epoch, "values": {"train/loss": loss}}
        for epoch, loss in enumerate([2.0, 1.0, 0.0], start=1)
    ]
    lines = printed(STARTED, losses[0], progress(1001, 10, "a"), *losses[1:], progress(1002, 10, "b"))
    assert lines == ["gapgate: train: a", "gapgate: train: b █▅▁"]


def test_what_goes_to_mlflow_alone_is_not_printed(printed: Callable[..., list[str]]) -> None:
    kinds = ("metrics", "params", "tags", "file")
    assert printed(STARTED, *({"kind": kind, "time": 1001.0} for kind in kinds)) == []


def test_an_end_is_read_back_from_a_log_with_noise_around_and_between(printed: Callable[..., list[str]]) -> None:
    details = ["pass       max_ece  kept", "fail       max_gap_points  broken"]
    finished = {"kind": "finished", "time": 1234.5, "summary": "fail: 4 of 5 checks pass", "details": details}
    first, *others = printed(STARTED, finished, step="gate")
    assert first == "gapgate: gate: done in 234.5 s: fail: 4 of 5 checks pass"
    log = "\n".join([NOISE, first, NOISE, others[0], NOISE, *others[1:], NOISE])
    assert ending_in(log) == Ending("fail: 4 of 5 checks pass", tuple(details))
    assert error_in(log) is None


def test_of_two_tries_in_one_log_the_last_end_counts_without_the_details_of_the_one_before() -> None:
    log = (
        "gapgate: gate: done in 1.0 s: first\ngapgate: gate:  old\ngapgate: gate: done in 2.0 s: second\n"
        "gapgate: gate:  new\n"
    )
    assert ending_in(log) == Ending("second", ("new",))


def test_an_error_is_read_back_with_its_exit_code(printed: Callable[..., list[str]]) -> None:
    failed = {"kind": "failed", "time": 1001.0, "message": "no class: a has 2 images", "exit_code": 2}
    (line,) = printed(STARTED, failed, step="preprocess")
    assert line == "gapgate: preprocess: error (exit code 2): no class: a has 2 images"
    assert error_in(f"{NOISE}{line}\n{NOISE}") == ("no class: a has 2 images", 2)
    assert ending_in(f"{NOISE}{line}\n{NOISE}") is None


def test_a_log_without_our_lines_has_neither_end_nor_error() -> None:
    assert ending_in(NOISE) is None
    assert error_in(NOISE) is None
    assert ending_in("") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (7380, "2 h 3 min"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text
