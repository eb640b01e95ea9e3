"""train, on the splits and the policy of the golden artifacts."""

from pathlib import Path

from components.execute import make
from gapgate import artifacts
from gapgate.settings.sections import TrainSettings
from gapgate.tracking import NullTracker
from gapgate.training import checkpoint
from tests.golden.stored import SCHEMA_1


def test_a_damaged_checkpoint_costs_a_line_and_not_the_training(tmp_path: Path, monkeypatch) -> None:
    inputs = {kind: artifacts.load(SCHEMA_1 / kind, kind) for kind in ("splits", "policy")}
    settings = TrainSettings(architecture="softmax", epochs=1, batch_size=16, accelerator="cpu", num_threads=1)
    monkeypatch.setattr("components.train.checkpoint_dir", lambda key: tmp_path / "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / checkpoint.FILE).write_bytes(b"half a file")
    made, facts = make("train", settings, inputs, tmp_path / "model", NullTracker())
    assert facts.notes == ["checkpoints of an earlier try that were damaged and not used: 1"]
    assert len(made.read_json("history.json")) == 1
    assert not (tmp_path / "checkpoints").exists()
    assert make("train", settings, inputs, tmp_path / "again", NullTracker())[1].notes == []
