"""The promotion rule on a real MLflow store: who becomes champion, what is compared, and tries that ended early."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from components.execute import execute
from components.platform.registry.mlflow_registry import CHAMPION, PREVIOUS, Registry
from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_runs
from components.promotion import DECISION_TAG
from gapgate.artifacts import read_json
from gapgate.errors import ArtifactError, RegistryError
from pipelines.local.bentos import champion_bento
from tests.components import releases
from tests.components.releases import NAME, Made, decide, publish, register, release
from tests.serving import packaged

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.onnx

PACKAGE = """
import os, signal, sys
from components import promotion
from components.execute import execute
from components.platform.registry.mlflow_registry import Registry
place, folder = sys.argv[1], sys.argv[2]
owner, name = {
    "before the alias": (Registry, "promote"),
    "after the alias": (Registry, "tag"),
}[place]
original = getattr(owner, name)
def killed(*arguments, **named):
    if place == "after the alias" and promotion.DECISION_TAG not in arguments[-1]:
        return original(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, killed)
kinds = ("splits", "model", "evaluation", "certificate", "registration")
execute("package", "{}", {kind: f"{folder}/{kind}" for kind in kinds}, f"{folder}/bento")
"""


def aliases(registry: Registry) -> dict[str, tuple[str, ...]]:
    """Version → its aliases."""
    return {row.version: row.aliases for row in registry.versions(NAME)}


def test_a_challenger_that_is_worse_stays_challenger_and_one_that_is_as_good_takes_the_place(
    registry: Registry,
    models: dict[str, onnx.ModelProto],
    make: Callable[..., Made],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert release(make("r1", models["good"])) == {
        "version": "1",
        "alias": "champion",
        "reason": "the first version that passed",
    }
    worse = release(make("r2", models["poor"]))
    assert (worse["version"], worse["alias"]) == ("2", "challenger")
    assert aliases(registry) == {"2": ("challenger",), "1": ("champion",)}
    assert worse["reason"].startswith("against version 1: the challenger gets 0 of ")
    assert worse["comparison"]["champion_version"] == "1"
    assert worse["comparison"]["difference_points"] == -100
    monkeypatch.setitem(packaged.FIGURES, "test_ece", 0.03)  # else it is the version that is there
    assert release(make("r3", models["good"]))["version"] == "3"
    assert aliases(registry) == {"3": ("champion",), "2": (), "1": ()}


def test_a_better_one_becomes_champion_and_rollback_returns_to_the_one_before(
    registry: Registry, models: dict[str, onnx.ModelProto], make: Callable[..., Made]
) -> None:
    release(make("r1", models["poor"]))
    assert release(make("r2", models["good"]))["alias"] == "champion"
    assert aliases(registry) == {"2": ("champion",), "1": ()}
    assert registry.find(NAME, "2").tags[PREVIOUS] == "1"
    was, now = registry.rollback(NAME)
    assert (was.version, now.version) == ("2", "1")
    # The same model once more: what was decided since then holds.
    assert release(make("r3", models["good"]))["version"] == "2"
    assert aliases(registry) == {"2": (), "1": ("champion",)}


def test_one_of_other_classes_stays_challenger(
    registry: Registry,
    models: dict[str, onnx.ModelProto],
    make: Callable[..., Made],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release(make("r1", models["poor"]))
    monkeypatch.setattr(packaged, "CLASS_NAMES", ["ape", *packaged.CLASS_NAMES[1:]])
    reason = release(make("r2", models["good"]))["reason"]
    assert reason == (
        f"against version 1: it knows other classes; `gapgate promote 2 --model {NAME}` makes it champion"
    )
    assert aliases(registry) == {"2": ("challenger",), "1": ("champion",)}


def test_a_champion_that_loses_its_place_meanwhile_is_not_the_one_that_counts(
    registry: Registry,
    models: dict[str, onnx.ModelProto],
    make: Callable[..., Made],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the poor one is compared with a champion, the good one takes its place."""
    better, poor = make("r2", models["good"]), make("r3", models["poor"])
    release(make("r1"))
    waiting, _ = publish(better)
    version, _ = publish(poor)
    read = Registry.package

    def package(self, asked, folder):  # type: ignore[no-untyped-def]
        passed = read(self, asked, folder)
        if asked.version == "1" and not registry.find(NAME, waiting.version).aliases:
            monkeypatch.setattr(Registry, "package", read)
            decide(better, waiting)
        return passed

    monkeypatch.setattr(Registry, "package", package)
    assert decide(poor, version)["alias"] == "challenger"
    assert aliases(registry) == {"3": ("challenger",), "2": ("champion",), "1": ()}


def test_the_champion_is_compared_as_its_verified_package_has_it(
    registry: Registry, models: dict[str, onnx.ModelProto], make: Callable[..., Made], home: Path
) -> None:
    """Its ONNX file in the store may be another one: with zeros as weights a worse model would win."""
    release(make("r1", models["good"]))
    (stored,) = (home / "mlartifacts").glob("models/*/artifacts/model.onnx")
    onnx.save(releases.with_weights(releases.best_weights(home / "images") * 0), stored)
    assert release(make("r2", models["poor"]))["alias"] == "challenger"
    assert aliases(registry) == {"2": ("challenger",), "1": ("champion",)}


@pytest.mark.parametrize("cut", [True, False])
def test_a_champion_whose_package_is_damaged_or_lost_is_named_and_keeps_its_place(
    registry: Registry, models: dict[str, onnx.ModelProto], make: Callable[..., Made], home: Path, cut: bool
) -> None:
    release(make("r1", models["good"]))
    (stored,) = home.glob(f"mlartifacts/{registry.find(NAME, '1').run_id}/artifacts/package/model.bento")
    if cut:
        stored.write_bytes(stored.read_bytes()[:-100])
    else:
        stored.unlink()
    damaged, lost = r"version 1 is damaged: model\.bento", r"animals version 1 has no model\.bento in .*; .*promote"
    with pytest.raises(ArtifactError if cut else RegistryError, match=damaged if cut else lost):
        release(make("r2", models["poor"]))
    assert aliases(registry) == {"2": (), "1": ("champion",)}


@pytest.mark.parametrize("place", ["before the alias", "after the alias"])
def test_a_package_step_that_was_killed_leaves_no_champion_without_a_bento_and_the_next_run_completes_it(
    registry: Registry, make: Callable[..., Made], home: Path, place: str
) -> None:
    first, second = make("r1"), make("r2")
    register(first)
    done = subprocess.run([sys.executable, "-c", PACKAGE, place, str(first.folder)], timeout=300)
    assert done.returncode == -signal.SIGKILL
    run = mlflow_client.client().get_run(mlflow_runs.run_id(RunContext("r1")))
    assert run.info.status == "RUNNING"
    has_moved = place == "after the alias"
    assert aliases(registry) == {"1": ("champion",) if has_moved else ()}
    if has_moved:
        assert champion_bento(NAME).parent == home / "bentos"  # its own folder is not whole
    register(second)
    inputs = {kind: str(each.path) for kind, each in releases.given(second).items()}
    execute("package", "{}", inputs, f"{second.folder}/b")
    assert aliases(registry) == {"1": ("champion",)}
    assert RunContext("r2").decision["alias"] == CHAMPION
    assert DECISION_TAG in registry.find(NAME, "1").tags
    assert read_json(second.folder / "b" / "package.json")["package"] == registry.find(NAME, "1").package
    shutil.rmtree(home / "bentos", ignore_errors=True)
    assert champion_bento(NAME).exists()
