"""One flipped bit in any file that is read again: it is noticed, with the file's name, and nothing is served or
promoted; or it is in a file that nothing reads."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cli.versions import promote, receipt
from cli.workspace import sync
from components.catalog import STEPS
from components.execute import load
from components.platform.registry.mlflow_registry import Registry
from components.platform.tracking.spool import Reader
from gapgate.errors import GapgateError
from gapgate.evidence.sealed.package import opened
from gapgate.training import checkpoint
from pipelines.local.bentos import champion_bento
from tests.faults.settings import SEED, number
from tests.faults.workspaces import FaultWorkspace

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # importing mlflow.onnx
    pytest.mark.xdist_group("flips"),  # one after the other: they share a store
]

BITS = number(8, 1)
"""Flips of each file."""
UNREAD = {
    "model.onnx": "what is served and compared is the one in the package",
    "MLmodel": "MLflow's own record beside it, for its UI",
    "conda.yaml": "the same",
    "python_env.yaml": "the same",
    "requirements.txt": "the same",
    "predictions.parquet": "read after a cross-validation alone, and then checked against the lineage in the package",
    "package.json": "for people; the seal is in the package",
    "certificate.json": "for people; the certificate that counts is in the package",
    "suspects.csv": "for people",
    "classes.json": "a table of MLflow's UI",
    "set_aside.json": "the same",
    "near_duplicates.json": "the same",
    "suspects.json": "the same",
    "worst_errors.json": "the same",
    ".html": "for people",
    ".png": "for people",
    ".webp": "for people",
    "gapgate.zip": "what is served is in the package",
    "image_classifier.py": "the same",
    "input_example.json": "the same",
}
"""Files of a run in MLflow's store (their names or ends) that no command reads again → why a flip does no harm."""


@pytest.fixture
def workspace(undisturbed: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultWorkspace:
    """A copy of the workspace with a champion."""
    copy: FaultWorkspace = undisturbed.workspace.copy(tmp_path)
    monkeypatch.setenv("GAPGATE_HOME", str(copy.home))
    return copy


@contextmanager
def flipped(path: Path, drawn: random.Random) -> Iterator[str]:
    """Flip one bit of a file for the time of the block; yields where."""
    whole, mode = path.read_bytes(), path.stat().st_mode
    bit = drawn.randrange(8 * len(whole))
    content = bytearray(whole)
    content[bit // 8] ^= 1 << bit % 8
    path.chmod(0o644)
    path.write_bytes(content)
    try:
        yield f"GAPGATE_FAULTS_SEED={SEED}: bit {bit} of {path}"
    finally:
        path.write_bytes(whole)
        path.chmod(mode)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def test_a_flip_in_any_file_of_any_artifact_is_named(undisturbed: Any, tmp_path: Path, record_property: Any) -> None:
    (artifacts,) = undisturbed.run.glob("artifacts/*")
    shutil.copytree(artifacts, tmp_path / "artifacts")
    drawn, tried = random.Random(f"{SEED} artifacts"), 0
    for step in STEPS.values():
        folder = tmp_path / "artifacts" / step.name / step.output
        assert load({step.output: str(folder)})
        for file in files_in(folder):
            for _ in range(BITS):
                with flipped(file, drawn) as where, pytest.raises(GapgateError) as caught:
                    load({step.output: str(folder)})
                assert str(folder) in str(caught.value), where
                assert caught.value.exit_code == 2
                tried += 1
    record_property("faults", ("flip: artifact", tried))


def test_a_flip_in_a_checkpoint_sets_it_aside(undisturbed: Any, tmp_path: Path, record_property: Any) -> None:
    """Of the weights that were trained, with the progress of a training."""
    (weights,) = undisturbed.run.glob("artifacts/*/train/model/weights.safetensors")
    drawn, tried = random.Random(f"{SEED} checkpoint"), 50 * BITS
    for _ in range(tried):
        checkpoint.save(tmp_path, "id", load_file(weights), {"epoch": 3, "best": 0.93})
        file = tmp_path / checkpoint.FILE
        content = bytearray(file.read_bytes())
        bit = drawn.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError):
            checkpoint.load(tmp_path, "id")
    record_property("faults", ("flip: checkpoint", tried))


def test_a_flip_in_a_spool_is_named_and_sends_no_other_figure(
    workspace: FaultWorkspace, capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    (run,) = workspace.runs()
    whole = list(Reader(run / "spool").read())
    drawn, tried = random.Random(f"{SEED} spool"), 0
    for file in sorted((run / "spool").glob("*.jsonl")):
        for _ in range(BITS):
            with flipped(file, drawn) as where:
                reader = Reader(run / "spool")
                events = list(reader.read())
                # The last line of all, without its end, waits for it; `sync` ends and names it, as test_spool has it.
                assert reader.damaged == {file.name} or len(events) == len(whole) - 1, where
                assert all(event in whole for event in events), where
            tried += 1
    for file in (run / "spool" / "mlflow.json", run / "result.json"):
        for _ in range(BITS):
            aside = file.with_name(f"{file.name}.damaged")
            with flipped(file, drawn) as where:
                sync()
                assert f"{file} was damaged and is set aside" in capsys.readouterr().out, where
                aside.unlink()
            workspace.check_registry()
            assert workspace.statuses() == {run.name: "FINISHED"}, where
            tried += 1
    record_property("faults", ("flip: spool", tried))


def test_a_flip_in_a_package_is_never_served(workspace: FaultWorkspace, tmp_path: Path, record_property: Any) -> None:
    registry = Registry()
    champion = registry.champion("gapgate")
    assert champion
    stated = registry.stated(champion)
    archive = Path(shutil.copyfile(champion_bento("gapgate"), tmp_path / "copy.bento"))
    drawn, tried = random.Random(f"{SEED} package"), 25 * BITS
    for _ in range(tried):
        with flipped(archive, drawn) as where:
            said = _refusals(lambda: opened(archive, tmp_path / "model", stated))
            assert said, where
            assert "gapgate version 1" in said[0], where
    record_property("faults", ("flip: package", tried))


def test_a_flip_in_the_registrys_store_promotes_and_serves_nothing(
    undisturbed: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    """In a copy: tests in other processes use the workspace itself at the same time."""
    workspace: FaultWorkspace = undisturbed.workspace.copy(tmp_path / "own")
    (run,) = workspace.runs()
    monkeypatch.setenv("GAPGATE_HOME", str(workspace.home))
    registry = Registry()
    champion = registry.champion("gapgate")
    assert champion
    sealed = registry.stated(champion).package
    kept = {place: tmp_path / place.name for place in (run / "artifacts", workspace.home / "receipts")}
    for place, aside in kept.items():
        place.rename(aside)  # else the workspace's own is taken

    def fetched() -> None:
        shutil.rmtree(workspace.home / "bentos", ignore_errors=True)
        champion_bento("gapgate")

    # As `serve` and `predict` do, `promote`, and `receipt`.
    readers = (fetched, lambda: promote("1", "gapgate"), lambda: receipt(champion.receipt, "", ""))
    drawn, outcomes = random.Random(f"{SEED} store"), Counter[str]()
    for file in files_in(workspace.home / "mlartifacts"):
        for _ in range(BITS):
            with flipped(file, drawn) as where:
                said = _refusals(*readers)
                is_unread = file.name in UNREAD or file.suffix in UNREAD
                assert bool(said) is not is_unread, (where, said)
                for error in said:
                    assert "gapgate version 1" in error or "receipt" in error, where
                assert workspace.aliases() == {"champion": "1"}
                outcomes["harmless" if is_unread else "noticed"] += 1
    assert not _refusals(*readers)
    assert registry.stated(champion).package == sealed
    for place, aside in kept.items():
        aside.rename(place)
    for kind, count in outcomes.items():
        record_property("faults", (f"flip: store, {kind}", count))


def _refusals(*calls: Callable[[], Any]) -> list[str]:
    """What is said by those of the calls that refuse."""
    said = []
    for call in calls:
        try:
            call()
        except GapgateError as error:
            said.append(str(error))
    return said
