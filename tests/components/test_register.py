"""The register step on a real MLflow store: versions, receipt, tries that ended early, two at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cli.versions import receipt
from components.platform.registry.mlflow_registry import Registry
from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_runs
from components.platform.tracking.spool import Spool
from components.platform.workspace import receipts_dir
from gapgate import artifacts
from gapgate.artifacts import RUN_VARIABLE, Artifact
from gapgate.errors import ArtifactError, RegistryError, TrackingError
from gapgate.evidence.gate import Verdict
from gapgate.evidence.sealed.receipt import verify
from gapgate.onnx.classifier import Classifier
from tests.components import releases
from tests.components.releases import KINDS, NAME, Made, register
from tests.serving import packaged
from tests.serving.registry_server import RegistryServer

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.onnx

REGISTER = """
import sys
from pathlib import Path
import mlflow.onnx
from tests.components.releases import Made, register
print("ready", flush=True)
sys.stdin.readline()
register(Made(sys.argv[1], Path(sys.argv[2])))
"""


def number(made: Artifact) -> str:
    return str(made.read_json("registration.json")["version"])


def aliases(registry: Registry) -> dict[str, tuple[str, ...]]:
    """Version → its aliases."""
    return {row.version: row.aliases for row in registry.versions(NAME)}


def run_of(name: str) -> Any:
    return mlflow_client.client().get_run(mlflow_runs.run_id(RunContext(name)))


def test_a_version_that_passed_has_no_alias_before_it_is_packaged(
    registry: Registry, make: Callable[..., Made]
) -> None:
    """A champion without a package could be served by nobody."""
    Spool(RunContext("r1").spool, "preprocess").data("animals", "0123.dir", {"test": 12}, ["cat", "dog"])
    assert number(register(make("r1"))) == "1"
    assert aliases(registry) == {"1": ()}
    assert RunContext("r1").decision == {}
    (logged,) = mlflow_client.client().search_logged_models([run_of("r1").info.experiment_id])
    figures = {each.key: (each.value, each.dataset_name) for each in logged.metrics}
    assert logged.name == NAME
    assert figures["test/accuracy"] == (packaged.FIGURES["test_accuracy"], "animals, test, 12 images")
    assert run_of("r1").info.status == "RUNNING"


def test_a_version_says_where_it_is_from_and_holds_the_model(
    registry: Registry, make: Callable[..., Made], tmp_path: Path
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
    described = mlflow_client.client().get_model_version(NAME, "1").description
    assert described.startswith("Gate: pass\n")
    assert f"/runs/{version.run_id}/artifacts/report/report.html)" in described
    assert f"models:/{NAME}@champion" in mlflow_client.client().get_registered_model(NAME).description
    import mlflow

    stored = mlflow.artifacts.download_artifacts(f"models:/{NAME}/1/model.onnx", dst_path=str(tmp_path / "download"))
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 1), np.uint8)
    trained = Classifier.load(given.folder / "model" / "model.onnx")
    assert np.array_equal(Classifier.load(Path(stored)).logits(images), trained.logits(images))


def test_the_receipt_names_all_that_the_version_is_made_from_and_is_kept_under_its_digest(
    make: Callable[..., Made],
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
    run = mlflow_client.client().get_run(found.tracking_run)
    assert run.data.tags.items() >= {("receipt", digest), ("model.version", "1")}


@pytest.mark.parametrize("verdict", ["fail", "undecided"])
def test_a_certificate_that_does_not_pass_moves_no_alias_and_ends_the_run(
    registry: Registry, make: Callable[..., Made], verdict: Verdict
) -> None:
    assert number(register(make("r1", verdict=verdict))) == "1"
    assert RunContext("r1").decision == {"alias": "", "reason": f"gate: {verdict}"}
    assert aliases(registry) == {"1": ()}
    assert registry.find(NAME, "1").verdict == verdict
    assert run_of("r1").info.status == "FINISHED"


def test_a_step_that_is_tried_again_makes_no_second_version_and_the_same_artifact(
    registry: Registry, make: Callable[..., Made]
) -> None:
    given = make("r1")
    first, second = register(given), register(given)
    assert first.digest == second.digest
    assert list(aliases(registry)) == ["1"]
    assert len(mlflow_client.client().search_logged_models([run_of("r1").info.experiment_id])) == 1


def test_a_try_that_ended_after_its_version_was_made_is_completed_by_the_next(
    registry: Registry, make: Callable[..., Made]
) -> None:
    given = make("r1")
    receipts_dir().write_text("in the way")
    with pytest.raises(FileExistsError):
        register(given)
    assert not (given.folder / "registration").exists()
    assert list(aliases(registry)) == ["1"]
    receipts_dir().unlink()
    digest = register(given).read_json("registration.json")["receipt"]
    assert list(aliases(registry)) == ["1"]
    assert registry.find(NAME, "1").tags["gapgate.receipt"] == digest
    assert [path.stem for path in receipts_dir().iterdir()] == [digest.removeprefix("sha256:")]


def test_another_run_finds_the_version_of_its_model_that_a_killed_run_has_left(
    registry: Registry, make: Callable[..., Made]
) -> None:
    receipts_dir().write_text("in the way")
    with pytest.raises(FileExistsError):
        register(make("r1"))
    receipts_dir().unlink()
    second = register(make("r2"))
    found = verify(second.read_json("receipt.json"), second.read_json("registration.json")["receipt"])
    assert list(aliases(registry)) == ["1"]
    # Its own run, so that the links of the registry and of the receipt lead to one place.
    assert (found.run, found.tracking_run) == ("r1", registry.find(NAME, "1").run_id)
    assert registry.receipt(registry.find(NAME, "1")) == second.read_json("receipt.json")


def test_a_damaged_receipt_of_an_earlier_run_is_named(registry: Registry, make: Callable[..., Made]) -> None:
    register(make("r1"))
    (kept,) = (receipts_dir().parent / "mlartifacts").rglob("receipt.json")
    kept.write_text(kept.read_text().replace('"pass"', '"fail"'))
    with pytest.raises(ArtifactError, match="the receipt of animals version 1 in the artifact store is damaged"):
        register(make("r2"))


def test_a_version_whose_mlflow_run_was_deleted_does_not_count(registry: Registry, make: Callable[..., Made]) -> None:
    """Its package could not be read."""
    register(make("r1"))
    mlflow_client.client().delete_run(registry.find(NAME, "1").run_id)
    assert number(register(make("r2"))) == "2"


def test_a_model_that_an_earlier_run_has_released_keeps_its_version_receipt_and_place(
    registry: Registry, make: Callable[..., Made]
) -> None:
    given = make("r1")
    assert releases.release(given)["alias"] == "champion"
    before = registry.find(NAME, "1")
    first, second = artifacts.load(given.folder / "registration", "registration"), register(make("r2"))
    assert registry.versions(NAME) == [before]
    assert second.digest == first.digest
    assert RunContext("r2").decision == {
        "alias": "champion",
        "reason": "run r1 registered the same model with the verdict pass",
        "known_from": "r1",
    }
    tags = run_of("r2").data.tags
    assert (tags["model.version"], tags["model.alias"]) == ("1", "champion")
    # On a cluster nothing follows, so the step closes its MLflow run.
    assert run_of("r2").info.status == "FINISHED"


def test_a_model_that_did_not_pass_is_known_without_a_package(registry: Registry, make: Callable[..., Made]) -> None:
    register(make("r1", verdict="fail"))
    assert number(register(make("r2", verdict="fail"))) == "1"
    assert RunContext("r2").decision["reason"] == "run r1 registered the same model with the verdict fail"
    assert run_of("r2").info.status == "FINISHED"


def test_one_with_another_certificate_is_another_version(registry: Registry, make: Callable[..., Made]) -> None:
    assert number(register(make("r1"))) == "1"
    assert number(register(make("r2", verdict="undecided"))) == "2"
    assert number(register(make("r3"))) == "1"


def test_an_evaluation_of_another_model_is_refused_before_anything_is_registered(
    registry: Registry, models: dict[str, onnx.ModelProto], make: Callable[..., Made]
) -> None:
    given, other = make("r1"), make("r2", models["good"])
    shutil.rmtree(given.folder / "model")
    shutil.copytree(other.folder / "model", given.folder / "model")
    with pytest.raises(ArtifactError, match="the evaluation is of the model"):
        register(given)
    assert registry.names() == []


def test_without_its_server_the_step_fails_and_the_next_try_registers(
    registry: Registry, make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    given = make("r1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="does not answer") as caught:
        register(given)
    assert caught.value.exit_code == 4
    assert not (given.folder / "registration").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    assert number(register(given)) == "1"


def test_two_processes_that_register_one_model_at_once_make_one_version(
    registry: Registry, make: Callable[..., Made], home: Path
) -> None:
    given = [make("r1"), make("r2")]
    processes = [start_registering(each, home) for each in given]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert list(aliases(registry)) == ["1"]
    first, second = (artifacts.load(each.folder / "registration", "registration").digest for each in given)
    assert first == second


def start_registering(made: Made, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", REGISTER, made.run, str(made.folder)],
        env=os.environ | {RUN_VARIABLE: made.run, "GAPGATE_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_asks_a_server_no_more_often_than_it_must(
    home: Path, server: RegistryServer, make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a log-in each request costs the server a quarter of a second for the hash of the password. Here the run is
    new to MLflow; in a pod an earlier step has made it, by four requests."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    counts = []
    for run in ("counted1", "counted2"):
        before = len(server.requests())
        register(make(run))
        counts.append(len(server.requests()) - before)
    # 8 for the lock and the second look, without which two runs make two versions of one model.
    assert counts[0] <= 35
    assert counts[1] <= 18  # known: nothing is uploaded


def test_a_receipt_that_the_workspace_does_not_have_is_in_the_registry(
    home: Path, make: Callable[..., Made], capsys: pytest.CaptureFixture[str]
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


def test_the_receipt_names_the_code_that_trained_and_not_that_which_registers(
    registry: Registry, make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for process in ("trains", "registers"):
        monkeypatch.setenv("GAPGATE_CODE_REVISION", process)
        artifacts.code_revision.cache_clear()
        made[process] = register(made["trains"]) if process == "registers" else make("r1")
    artifacts.code_revision.cache_clear()
    assert made["registers"].read_json("receipt.json")["code_revision"] == "trains"
    assert registry.find(NAME, "1").tags["gapgate.code_revision"] == "trains"
    mlflow_runs.send(RunContext("r1"))
    assert run_of("r1").data.tags["code.revision"] == "trains"
