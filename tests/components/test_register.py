"""The register step on a real MLflow store: versions, aliases, receipt, tries that ended early, two at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cli.versions import receipt
from components.execute import execute
from components.platform import mlflow_runs
from components.platform.mlflow_registry import PREVIOUS, Registry
from components.platform.run_context import RunContext
from components.platform.workspace import receipts_dir
from gapgate import artifacts
from gapgate.artifacts import RUN_VARIABLE, Artifact
from gapgate.data.splits import Splits
from gapgate.errors import ArtifactError, RegistryError, TrackingError
from gapgate.evidence.gate import Verdict
from gapgate.evidence.receipt import verify
from gapgate.onnx.classifier import Classifier
from tests.serving import packaged
from tests.serving.registry_server import RegistryServer

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.onnx

NAME = "animals"
KINDS = ("splits", "policy", "model", "evaluation", "certificate")
REGISTER = """
import json, sys
from cli.versions import receipt
from components.execute import execute
folder, kinds = sys.argv[1], sys.argv[2].split(",")
inputs = {kind: f"{folder}/{kind}" for kind in kinds}
print("ready", flush=True)
sys.stdin.readline()
execute("register", json.dumps({"model_name": "animals"}), inputs, f"{folder}/made")
"""


class Made(NamedTuple):
    """A pipeline run up to its certificate."""

    run: str
    folder: Path

    @property
    def inputs(self) -> dict[str, str]:
        return {kind: str(self.folder / kind) for kind in KINDS}


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    def make(run: str, model: onnx.ModelProto | None = None, verdict: Verdict = "pass") -> Made:
        folder = tmp_path / run
        packaged.inputs(folder, model=model, verdict=verdict)
        shutil.rmtree(folder / "registration")
        return Made(run, folder)

    return make


@pytest.fixture
def register(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Made], Artifact]:
    def register(made: Made) -> Artifact:
        monkeypatch.setenv(RUN_VARIABLE, made.run)
        return execute("register", json.dumps({"model_name": NAME}), made.inputs, str(made.folder / "made"))

    return register


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """Two models of the same images: `good` knows every one, `poor` takes each for the next class but a few."""
    folder = tmp_path_factory.mktemp("images")
    packaged.inputs(folder)
    splits = Splits.open(folder / "splits")
    pixels = (np.asarray(splits.images, np.float64) / 127.5 - 1).reshape(len(splits.labels), -1)
    wanted = np.eye(len(splits.class_names))[splits.labels]
    weights = np.linalg.lstsq(pixels, wanted, rcond=None)[0]
    return {"good": with_weights(weights), "poor": with_weights(np.roll(weights, 1, axis=1))}


def with_weights(weights: Any) -> onnx.ModelProto:
    model = packaged.linear_model()
    (initializer,) = [each for each in model.graph.initializer if each.name == "weights"]
    initializer.CopyFrom(numpy_helper.from_array(weights.astype(np.float32), "weights"))
    return model


def outcome(made: Artifact) -> tuple[str, str]:
    """Version and alias, as the step says."""
    content = made.read_json("registration.json")
    return content["version"], content["alias"]


def aliases(registry: Registry) -> dict[str, tuple[str, ...]]:
    """Version → its aliases."""
    return {row.version: row.aliases for row in registry.versions(NAME)}


def test_the_first_version_that_passes_is_champion(
    registry: Registry, make: Callable[..., Made], register: Callable[[Made], Artifact]
) -> None:
    made = register(make("r1"))
    assert made.read_json("registration.json")["reason"] == "the first version that passed"
    assert outcome(made) == ("1", "champion")
    assert aliases(registry) == {"1": ("champion",)}


def test_a_version_says_where_it_is_from_and_holds_the_model(
    registry: Registry, make: Callable[..., Made], register: Callable[[Made], Artifact], tmp_path: Path
) -> None:
    given = make("r1")
    registered = register(given)
    version = registry.find(NAME, "1")
    digests = {kind: artifacts.load(given.folder / kind, kind).digest for kind in KINDS}
    assert version.tags.items() >= {
        ("gapgate.model", digests["model"]),
        ("gapgate.certificate", digests["certificate"]),
        ("gapgate.verdict", "pass"),
        ("gapgate.run", "r1"),
        ("gapgate.test_accuracy", "0.938"),
        ("gapgate.receipt", registered.read_json("registration.json")["receipt"]),
    }
    assert version.run_id == mlflow_runs.run_id(RunContext("r1"))
    splits = Splits.open(given.folder / "splits")
    stored = Classifier.load(registry.model_file(version, tmp_path / "download"))
    trained = Classifier.load(given.folder / "model" / "model.onnx")
    assert np.array_equal(stored.logits(splits.images[:9]), trained.logits(splits.images[:9]))


def test_the_receipt_names_all_that_the_version_is_made_from_and_is_kept_under_its_digest(
    make: Callable[..., Made], register: Callable[[Made], Artifact]
) -> None:
    given = make("r1")
    registered = register(given)
    digest = registered.read_json("registration.json")["receipt"]
    found = verify(registered.read_json("receipt.json"), digest)
    kept = receipts_dir() / f"{digest.removeprefix('sha256:')}.json"
    assert artifacts.read_json(kept) == registered.read_json("receipt.json")
    assert found.artifacts == {kind: artifacts.load(given.folder / kind, kind).digest for kind in ("dataset", *KINDS)}
    assert (found.model_name, found.model_version, found.run, found.verdict) == (NAME, "1", "r1", "pass")
    assert found.tracking_run == mlflow_runs.run_id(RunContext("r1"))
    assert (found.figures, found.data) == (packaged.FIGURES, packaged.DATA)
    assert set(found.settings) == {"preprocess", "augment", "train", "evaluate", "gate"}
    assert registered.read_json("lineage.json")["certificate"]["digest"] == found.artifacts["certificate"]
    run = mlflow_runs.client().get_run(found.tracking_run)
    assert run.data.tags.items() >= {("receipt", digest), ("model.version", "1"), ("model.alias", "champion")}


def test_a_challenger_that_is_worse_stays_challenger_and_one_that_is_as_good_takes_the_place(
    registry: Registry,
    models: dict[str, onnx.ModelProto],
    make: Callable[..., Made],
    register: Callable[[Made], Artifact],
) -> None:
    register(make("r1", models["good"]))
    worse = register(make("r2", models["poor"]))
    assert outcome(worse) == ("2", "challenger")
    assert aliases(registry) == {"2": ("challenger",), "1": ("champion",)}
    content = worse.read_json("registration.json")
    assert content["reason"].startswith("against version 1: the challenger gets 0 of ")
    assert content["comparison"]["champion_version"] == "1"
    assert content["comparison"]["difference_points"] == -100
    as_good = register(make("r3", models["good"]))
    assert outcome(as_good) == ("3", "champion")
    assert aliases(registry) == {"3": ("champion",), "2": (), "1": ()}


def test_a_better_one_becomes_champion_and_rollback_returns_to_the_one_before(
    registry: Registry,
    models: dict[str, onnx.ModelProto],
    make: Callable[..., Made],
    register: Callable[[Made], Artifact],
) -> None:
    register(make("r1", models["poor"]))
    assert outcome(register(make("r2", models["good"]))) == ("2", "champion")
    assert aliases(registry) == {"2": ("champion",), "1": ()}
    was, now = registry.rollback(NAME)
    assert (was.version, now.version) == ("2", "1")
    assert aliases(registry) == {"2": (), "1": ("champion",)}


@pytest.mark.parametrize("verdict", ["fail", "undecided"])
def test_a_certificate_that_does_not_pass_moves_no_alias_and_fails_the_run(
    registry: Registry, make: Callable[..., Made], register: Callable[[Made], Artifact], verdict: Verdict
) -> None:
    made = register(make("r1", verdict=verdict))
    assert made.read_json("registration.json")["reason"] == f"gate: {verdict}"
    assert outcome(made) == ("1", "")
    assert aliases(registry) == {"1": ()}
    assert registry.find(NAME, "1").verdict == verdict
    run = mlflow_runs.client().get_run(mlflow_runs.run_id(RunContext("r1")))
    assert run.info.status == "FAILED"


def test_one_of_other_classes_stays_challenger(
    registry: Registry,
    models: dict[str, onnx.ModelProto],
    make: Callable[..., Made],
    register: Callable[[Made], Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(make("r1", models["poor"]))
    monkeypatch.setattr(packaged, "CLASS_NAMES", ["ape", *packaged.CLASS_NAMES[1:]])
    made = register(make("r2", models["good"]))
    assert outcome(made) == ("2", "challenger")
    assert "it knows other classes" in made.read_json("registration.json")["reason"]
    assert aliases(registry) == {"2": ("challenger",), "1": ("champion",)}


def test_a_step_that_is_tried_again_makes_no_second_version_and_the_same_receipt(
    registry: Registry, make: Callable[..., Made], register: Callable[[Made], Artifact]
) -> None:
    given = make("r1")
    first, second = register(given), register(given)
    assert outcome(first) == outcome(second) == ("1", "champion")
    assert first.read_json("registration.json")["receipt"] == second.read_json("registration.json")["receipt"]
    assert list(aliases(registry)) == ["1"]
    assert PREVIOUS not in registry.find(NAME, "1").tags
    client = mlflow_runs.client()
    assert len(client.search_logged_models([run_experiment(given)])) == 1


def run_experiment(given: Made) -> str:
    run = mlflow_runs.client().get_run(mlflow_runs.run_id(RunContext(given.run)))
    return str(run.info.experiment_id)


def test_a_try_that_ended_after_its_version_was_made_is_completed_by_the_next(
    registry: Registry, make: Callable[..., Made], register: Callable[[Made], Artifact]
) -> None:
    given = make("r1")
    receipts_dir().write_text("in the way")
    with pytest.raises(FileExistsError):
        register(given)
    assert not (given.folder / "made").exists()
    assert list(aliases(registry)) == ["1"]
    receipts_dir().unlink()
    registered = register(given)
    assert outcome(registered) == ("1", "champion")
    assert list(aliases(registry)) == ["1"]
    digest = registered.read_json("registration.json")["receipt"]
    assert registry.find(NAME, "1").tags["gapgate.receipt"] == digest
    assert [path.stem for path in receipts_dir().iterdir()] == [digest.removeprefix("sha256:")]


@pytest.fixture
def packaged_run(make: Callable[..., Made], register: Callable[[Made], Artifact]) -> Callable[..., Artifact]:
    """Register, and give the MLflow run the package that the next step uploads."""

    def packaged_run(run: str, model: onnx.ModelProto | None = None, verdict: Verdict = "pass") -> Artifact:
        registered = register(make(run, model, verdict))
        mlflow_runs.client().log_text(mlflow_runs.run_id(RunContext(run)), "a Bento", "package/model.bento")
        return registered

    return packaged_run


def tags_of(run: str) -> dict[str, str]:
    found = mlflow_runs.client().get_run(mlflow_runs.run_id(RunContext(run)))
    return {name: found.data.tags[name] for name in ("model.version", "model.alias", "receipt")}


def test_a_model_that_an_earlier_run_registered_and_packaged_keeps_its_version_and_receipt(
    registry: Registry,
    make: Callable[..., Made],
    register: Callable[[Made], Artifact],
    packaged_run: Callable[..., Artifact],
) -> None:
    first = packaged_run("r1")
    before = registry.find(NAME, "1")
    second = register(make("r2"))
    assert outcome(second) == ("1", "champion")
    assert registry.versions(NAME) == [before]
    assert second.read_json("receipt.json") == first.read_json("receipt.json")
    assert second.read_json("registration.json")["known_from"] == "r1"
    assert "known_from" not in first.read_json("registration.json")
    assert tags_of("r2") == tags_of("r1")
    # On a cluster nothing follows, so the step closes its MLflow run.
    assert mlflow_runs.client().get_run(mlflow_runs.run_id(RunContext("r2"))).info.status == "FINISHED"


def test_a_known_version_keeps_the_place_that_a_rollback_gave_it(
    registry: Registry,
    models: dict[str, onnx.ModelProto],
    make: Callable[..., Made],
    register: Callable[[Made], Artifact],
    packaged_run: Callable[..., Artifact],
) -> None:
    packaged_run("r1", models["poor"])
    packaged_run("r2", models["good"])
    registry.rollback(NAME)
    assert outcome(register(make("r3", models["good"]))) == ("2", "")
    assert aliases(registry) == {"2": (), "1": ("champion",)}


def test_a_model_that_did_not_pass_is_known_without_a_package(
    registry: Registry, make: Callable[..., Made], register: Callable[[Made], Artifact]
) -> None:
    register(make("r1", verdict="fail"))
    second = register(make("r2", verdict="fail"))
    assert outcome(second) == ("1", "")
    assert second.read_json("registration.json")["reason"] == "run r1 registered the same model with the verdict fail"
    assert mlflow_runs.client().get_run(mlflow_runs.run_id(RunContext("r2"))).info.status == "FAILED"


def test_a_version_without_a_package_or_with_another_certificate_does_not_count(
    registry: Registry,
    make: Callable[..., Made],
    register: Callable[[Made], Artifact],
    packaged_run: Callable[..., Artifact],
) -> None:
    assert outcome(register(make("r1"))) == ("1", "champion")  # its run ended before the package
    assert outcome(packaged_run("r2")) == ("2", "champion")
    assert outcome(register(make("r3", verdict="undecided"))) == ("3", "")
    assert outcome(register(make("r4"))) == ("2", "champion")


def test_an_evaluation_of_another_model_is_refused_before_anything_is_registered(
    registry: Registry,
    models: dict[str, onnx.ModelProto],
    make: Callable[..., Made],
    register: Callable[[Made], Artifact],
) -> None:
    given, other = make("r1"), make("r2", models["good"])
    shutil.rmtree(given.folder / "model")
    shutil.copytree(other.folder / "model", given.folder / "model")
    with pytest.raises(ArtifactError, match="the evaluation is of the model"):
        register(given)
    assert registry.names() == []


def test_without_its_server_the_step_fails_and_the_next_try_registers(
    registry: Registry,
    make: Callable[..., Made],
    register: Callable[[Made], Artifact],
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
) -> None:
    given = make("r1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="does not answer") as caught:
        register(given)
    assert caught.value.exit_code == 4
    assert not (given.folder / "made").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    assert outcome(register(given)) == ("1", "champion")


def test_two_processes_that_register_at_once_make_two_versions_and_one_champion(
    registry: Registry, models: dict[str, onnx.ModelProto], make: Callable[..., Made], home: Path
) -> None:
    """Whichever comes first: the good one ends as champion, since the second is compared with the first."""
    given = [make("r1", models["good"]), make("r2", models["poor"])]
    processes = [start_registering(each, home) for each in given]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    printed = [process.communicate("go\n", timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    found = {row.tags["gapgate.run"]: row for row in registry.versions(NAME)}
    assert {row.version for row in found.values()} == {"1", "2"}
    assert found["r1"].aliases == ("champion",)
    assert "champion" not in found["r2"].aliases


def start_registering(made: Made, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", REGISTER, str(made.folder), ",".join(KINDS)],
        env=os.environ | {RUN_VARIABLE: made.run, "GAPGATE_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_asks_a_server_no_more_often_than_it_must(
    home: Path,
    server: RegistryServer,
    make: Callable[..., Made],
    register: Callable[[Made], Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind a log-in each request costs the server a quarter of a second for the hash of the password. Here the run is
    new to MLflow; in a pod an earlier step has made it, by four requests."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    counts = []
    for run in ("counted1", "counted2"):
        before = len(server.requests())
        assert outcome(register(make(run)))[1] == "champion"
        counts.append(len(server.requests()) - before)
    assert counts[0] <= 29
    # 8 of them since the model is known: its earlier run is asked whether it was completed.
    assert counts[1] <= 42


def test_a_champion_whose_files_are_lost_ends_it_with_the_remedy(
    registry: Registry, make: Callable[..., Made], register: Callable[[Made], Artifact], home: Path
) -> None:
    register(make("r1"))
    shutil.rmtree(home / "mlartifacts" / "models")
    with pytest.raises(RegistryError, match=r"animals version 1 has no model\.onnx in the artifact store; .*promote"):
        register(make("r2"))


def test_a_receipt_that_the_workspace_does_not_have_is_in_the_registry(
    home: Path, make: Callable[..., Made], register: Callable[[Made], Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    digest = register(make("r1")).read_json("registration.json")["receipt"]
    shutil.rmtree(receipts_dir())
    capsys.readouterr()
    receipt(digest[: len("sha256:") + 10])
    printed = capsys.readouterr().out
    assert f"{digest}  content checked" in printed
    assert '"model_name": "animals"' in printed
    with pytest.raises(
        RegistryError, match=f"no receipt 000000 in {receipts_dir()} and sqlite.*; name the registry in"
    ):
        receipt("000000")
