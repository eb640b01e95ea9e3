"""The spool: what steps write, what readers get, and what is left of a step that was killed while it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from components.platform.tracking.spool import KEPT, Reader, Spool, end_lines, place_of

WRITER = """
import sys
from pathlib import Path
from components.platform.tracking.spool import Spool
spool = Spool(Path(sys.argv[1]), "train")
for number in range(500):
    spool.metrics({"who/" + sys.argv[2]: number, "padding": 0.5}, step=number)
"""


def kinds(reader: Reader) -> list[str]:
    return [event["kind"] for event in reader.read()]


def test_an_event_says_what_which_step_and_when(tmp_path: Path) -> None:
    before = time.time()
    spool = Spool(tmp_path, "train")
    spool.metrics({"train/loss": 1}, step=3)
    spool.params({"train.epochs": 5, "train.architecture": ["a"]})
    spool.tags({"seed": "7"})
    spool.progress(1, 20, "epochs", "loss 0.1")
    spool.failed("no data", 2)
    events = list(Reader(tmp_path).read())
    assert all(event["step"] == "train" and before <= event["time"] <= time.time() for event in events)
    assert [{name: event[name] for name in event if name not in ("step", "time")} for event in events] == [
        {"kind": "metrics", "values": {"train/loss": 1.0}, "at": 3},
        {"kind": "params", "values": {"train.epochs": "5", "train.architecture": "['a']"}},
        {"kind": "tags", "values": {"seed": "7"}},
        {"kind": "progress", "done": 1, "total": 20, "unit": "epochs", "note": "loss 0.1"},
        {"kind": "failed", "message": "no data", "exit_code": 2, "trace": "", "error": ""},
    ]


def test_a_reader_gets_each_event_once_and_the_files_in_order_of_their_names(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    train, augment = Spool(tmp_path, "train"), Spool(tmp_path, "augment")
    train.started()
    augment.started()
    assert [event["step"] for event in reader.read()] == ["augment", "train"]
    assert list(reader.read()) == []
    train.finished("done")
    assert kinds(reader) == ["finished"]


def test_a_reader_goes_on_from_the_offsets_of_another(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "train")
    spool.tags({"note": "größer als ASCII"})
    first = Reader(tmp_path)
    assert kinds(first) == ["tags"]
    spool.started()
    assert kinds(Reader(tmp_path, dict(first.offsets))) == ["started"]
    assert kinds(Reader(tmp_path)) == ["tags", "started"]


def test_a_reader_that_stops_between_two_events_gets_the_second_next_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "train")
    spool.started()
    spool.finished("done")
    reader = Reader(tmp_path)
    assert next(reader.read())["kind"] == "started"
    assert kinds(reader) == ["finished"]


def test_a_line_that_is_still_being_written_waits_until_it_is_whole(tmp_path: Path) -> None:
    Spool(tmp_path, "train").started()
    line = json.dumps({"kind": "tags", "step": "train", "time": 0, "values": {}}) + "\n"
    reader = Reader(tmp_path)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(line[:20])
        file.flush()
        assert kinds(reader) == ["started"]
        assert kinds(reader) == []
        file.write(line[20:])
    assert kinds(reader) == ["tags"]


def test_a_step_that_is_tried_again_adds_to_what_the_first_try_reported(tmp_path: Path) -> None:
    Spool(tmp_path, "train").started()
    again = Spool(tmp_path, "train")
    again.started()
    again.finished("done")
    assert kinds(Reader(tmp_path)) == ["started", "started", "finished"]


def test_half_a_line_of_a_try_that_was_killed_costs_that_line_and_no_other(tmp_path: Path) -> None:
    """As where the machine went down, or the disk was full for a moment."""
    Spool(tmp_path, "train").started()
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"kind": "metr')
    reader = Reader(tmp_path)
    assert kinds(reader) == ["started"]
    Spool(tmp_path, "train").finished("done")
    assert kinds(reader) == ["finished"]
    assert kinds(Reader(tmp_path)) == ["started", "finished"]


def test_processes_that_write_one_file_at_once_leave_whole_lines(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in ("a", "b")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    found: dict[str, list[Any]] = {"who/a": [], "who/b": []}
    for event in Reader(tmp_path).read():
        found[next(name for name in event["values"] if name in found)].append(event["at"])
    assert found == {"who/a": list(range(500)), "who/b": list(range(500))}


def test_a_file_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("report.html").write_text("x")
    Spool(tmp_path / "spool", "evaluate").file(Path("report.html"), "report")
    (event,) = Reader(tmp_path / "spool").read()
    assert (event["path"], event["folder"]) == (str(tmp_path / "report.html"), "report")


def test_a_kept_file_is_a_copy_of_what_it_was_and_two_steps_may_keep_one_name(tmp_path: Path) -> None:
    spool, given = tmp_path / "spool", tmp_path / "preview.png"
    for step in ("augment", "train"):
        given.write_text(step)
        Spool(spool, step, keep_files=True).file(given, "pictures")
    given.unlink()
    paths = [Path(event["path"]) for event in Reader(spool).read()]
    assert [path.read_text() for path in paths] == ["augment", "train"]
    assert all(path.is_relative_to(spool / KEPT) for path in paths)


def test_the_password_of_a_database_is_not_written(tmp_path):
    shown = []
    spool = Spool(tmp_path, "train", show=shown.append)
    spool.failed("postgresql://me:pass@db/m is away", 1, "mlflow.set_tracking_uri('postgresql://me:pass@db/m')")
    (event,) = Reader(tmp_path).read()
    assert event == shown[0]
    assert event["message"] == "postgresql://me:***@db/m is away"
    assert event["trace"] == "mlflow.set_tracking_uri('postgresql://me:***@db/m')"


def test_each_flipped_bit_of_an_event_is_noticed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "train")
    spool.metrics({"val/accuracy": 0.93}, 1)
    spool.finished("of one epoch", notes=["a note"])
    path = tmp_path / "train.jsonl"
    whole, events = path.read_bytes(), list(Reader(tmp_path).read())
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        end_lines(tmp_path)
        reader = Reader(tmp_path)
        found = list(reader.read())
        assert reader.damaged == {"train.jsonl"}
        assert len(found) < 2
        assert all(event in events for event in found)


def test_events_of_an_earlier_version_have_no_sum(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        '{"kind": "metrics", "step": "train", "time": 1.0, "values": {"train/loss": 0.5}, "at": 1}\n'
    )
    (event,) = Reader(tmp_path).read()
    assert event["values"] == {"train/loss": 0.5}


def test_each_event_is_read_once_however_often_and_whenever_one_reads(tmp_path: Path) -> None:
    first, second = Spool(tmp_path, "train"), Spool(tmp_path, "evaluate")
    reader, found = Reader(tmp_path), []
    for number in range(12):
        (first if number % 3 else second).tags({"number": str(number)})
        if number % 4 == 3:
            found.append([event["values"]["number"] for event in reader.read()])
    # File by file, in the order of their names.
    assert found == [["0", "3", "1", "2"], ["6", "4", "5", "7"], ["9", "8", "10", "11"]]
    assert list(reader.read()) == []
    assert reader.damaged == set()


def test_a_step_that_begins_again_goes_on_in_its_file_without_an_empty_line(tmp_path: Path) -> None:
    for number in range(3):
        Spool(tmp_path, "train").tags({"number": str(number)})
    assert (tmp_path / "train.jsonl").read_text().count("\n") == 3
    reader = Reader(tmp_path)
    assert [event["values"]["number"] for event in reader.read()] == ["0", "1", "2"]
    assert reader.damaged == set()


def test_files_of_one_name_are_kept_by_the_folder_that_they_are_for(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "gate", keep_files=True)
    for folder in ("gate", "report"):
        (tmp_path / "page.html").write_text(folder)
        spool.file(tmp_path / "page.html", folder)
    events = list(Reader(tmp_path / "spool").read())
    assert [place_of(event, tmp_path / "spool").read_text() for event in events] == ["gate", "report"]
