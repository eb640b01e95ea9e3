"""The champion's Bento: the one of its own run where that holds, else the one that the registry has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.platform.registry.mlflow_registry import Registry
from components.platform.run_context import RunContext
from gapgate.artifacts import read_json
from gapgate.errors import ArtifactError, RegistryError
from gapgate.evidence.sealed.archive import unpack_model
from pipelines.local.bentos import champion_bento
from tests.components import releases
from tests.components.releases import NAME

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.onnx


def test_the_bento_is_the_champions_whatever_lies_in_the_folder_that_its_tag_names(home: Path, tmp_path: Path) -> None:
    models = releases.of_accuracy(tmp_path / "images")
    places = {}
    for run, model in (("r1", "good"), ("r2", "poor")):
        made = releases.make(tmp_path / run, run, models[model])
        releases.release(made)
        places[run] = RunContext(run).folder / "artifacts" / "g" / "package" / "bento" / "model.bento"
        places[run].parent.mkdir(parents=True)
        shutil.copyfile(made.folder / "packed" / "model.bento", places[run])
    assert champion_bento(NAME) == places["r1"]
    # As an edit of the database: the run of the challenger.
    registry = Registry()
    champion = registry.find(NAME, "1")
    registry.tag(champion, {"gapgate.run": "r2"})
    found = champion_bento(NAME)
    assert found.parent == home / "bentos"
    package = unpack_model(found, tmp_path / "unpacked")
    assert read_json(package / "registration.json")["version"] == "1"
    assert champion_bento(NAME) == found
    found.write_bytes(b"damaged")
    assert champion_bento(NAME).read_bytes() == places["r1"].read_bytes()
    found.unlink()
    (stored,) = home.glob(f"mlartifacts/{champion.run_id}/artifacts/package/model.bento")
    stored.write_bytes(places["r2"].read_bytes())
    with pytest.raises(ArtifactError, match=r"version 1 is damaged: model\.bento has the sha256 \w+, not "):
        champion_bento(NAME)


def test_a_model_without_a_champion_has_no_bento(home: Path) -> None:
    with pytest.raises(RegistryError, match="animals has no champion; `gapgate run` makes one"):
        champion_bento(NAME)
