"""What reaches the terminal of names, logs and answers of servers."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from cli.terminal.console import Console
from cli.terminal.predictions_table import Summary
from cli.terminal.progress import TerminalDisplay
from components.platform.step_log import StepLog
from serving.client.prediction import Row

STEERING = "\x1b]0;title\x07\x1b[2J\x9b31m\rx"


def consoles() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=200, force_terminal=False), file


def test_no_text_reaches_the_terminal_with_an_escape_sequence() -> None:
    console, file = consoles()
    table = Table("name")
    table.add_row(STEERING)
    console.print(table, f"[bold]{STEERING}[/]\n\tnext line")
    summary = Summary()
    summary.write([Row(STEERING, STEERING, "1", "r", {STEERING: 1.0}), Row(STEERING, "m", "1", "r", error=STEERING)])
    summary.show(console, 1.0)
    assert file.getvalue().replace("\n", "").replace("\t", "").isprintable()
    assert file.getvalue().count(r"\x1b[2J") == 7
    assert "\n" in file.getvalue()


def test_what_a_step_says_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console, file = consoles()
    display, log = TerminalDisplay(console), StepLog("ingest")
    said = f"{STEERING}\nsecond"
    for event in (
        {"kind": "finished", "step": "ingest", "time": 0.0, "summary": said, "notes": [said], "details": []},
        {"kind": "failed", "step": "ingest", "time": 0.0, "message": said, "exit_code": 2},
    ):
        display.show(event)
        log.show(event)
    for text in (file.getvalue(), capsys.readouterr().out):
        assert len(text.splitlines()) == 3
        assert text.replace("\n", "").isprintable()
