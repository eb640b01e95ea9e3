"""The display of a run on the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.terminal.progress import TerminalDisplay
from gapgate.text import curve


@pytest.mark.parametrize(
    ("verdict", "mark"),
    [("pass", "\x1b[32m✓"), ("fail", "\x1b[31m✗"), ("undecided", "\x1b[33m?"), ("", "\x1b[32m✓")],
)
def test_the_mark_before_a_step_is_that_of_its_verdict(verdict: str, mark: str) -> None:
    written = io.StringIO()
    display = TerminalDisplay(Console(file=written, force_terminal=True, color_system="standard"))
    display.show({"kind": "started", "step": "gate", "time": 1.0})
    display.show({"kind": "finished", "step": "gate", "time": 2.0, "summary": "words", "notes": [], "verdict": verdict})
    assert mark in written.getvalue()
    assert written.getvalue().count("✓") + written.getvalue().count("✗") + written.getvalue().count("?") == 1


def test_a_training_shows_loss_and_curve() -> None:
    written = io.StringIO()
    display = TerminalDisplay(Console(file=written, force_terminal=True, width=100))
    with display.live("r"):
        display.show({"kind": "started", "step": "train", "time": 1.0})
        for epoch, loss in enumerate([2.0, 1.0, 0.0], start=1):
            display.show({"kind": "metrics", "step": "train", "at": epoch, "values": {"train/loss": loss}})
        note = "epoch 3/3, loss 0.000, val 90.0 %"
        display.show({"kind": "progress", "step": "train", "done": 3, "total": 3, "unit": "batches", "note": note})
        display._progress.refresh()
    assert note in written.getvalue()
    assert "█▅▁" in written.getvalue()


def test_a_training_fits_into_a_line_of_80_columns() -> None:
    written = io.StringIO()
    display = TerminalDisplay(Console(file=written, force_terminal=True, width=80, color_system=None))
    with display.live("r"):
        display.show({"kind": "started", "step": "train", "time": 1.0})
        for epoch in range(1, 20):
            display.show({"kind": "metrics", "step": "train", "at": epoch, "values": {"train/loss": 1 / epoch}})
        note = "epoch 19/20, loss 0.051, val 100.0 %"
        display.show({"kind": "progress", "step": "train", "done": 361, "total": 380, "unit": "batches", "note": note})
        display._progress.refresh()
    assert f"361/380 batches {note} ▁" in written.getvalue()
    assert "…" not in written.getvalue()


def test_without_a_bar_each_count_of_a_training_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fine-tuning counts batches after the images of which it has the features."""
    clock = iter(range(1_000))
    monkeypatch.setattr("cli.terminal.progress.time.monotonic", lambda: float(next(clock)))
    written = io.StringIO()
    display = TerminalDisplay(Console(file=written, width=80))
    display.show({"kind": "started", "step": "train", "time": 1.0})
    for done in range(1, 101):
        event = {"kind": "progress", "step": "train", "done": done, "total": 100, "unit": "images", "note": "features"}
        display.show(event)
    for done in range(1, 61):
        note = f"epoch {done // 20}/3, loss 0.1, val 90.0 %" if done % 20 == 0 else ""
        display.show({"kind": "progress", "step": "train", "done": done, "total": 60, "unit": "batches", "note": note})
    lines = [line.split(maxsplit=1)[1] for line in written.getvalue().splitlines()]
    assert lines[:10] == [f"{images}/100 images features" for images in range(10, 101, 10)]
    assert lines[10:] == [
        "10/60 batches",
        *(f"{batch}/60 batches epoch {batch // 20}/3, loss 0.1, val 90.0 %" for batch in (20, 30, 40, 50, 60)),
    ]


def test_a_curve_spans_all_values_and_shows_the_last() -> None:
    assert curve([0.0, 7.0, 3.5]) == "▁█▅"
    assert curve([8.0, *range(8)], width=8) == "▁▂▃▄▅▅▆▇"
    assert curve([1.0, 1.0]) == "▁▁"
