"""Runs that did not end as they should, on a real MLflow store: sent, registered or closed later."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from cli.workspace import sync
from components.platform.registry.mlflow_registry import Registry
from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_runs
from components.platform.tracking.spool import Spool
from gapgate import summed_json
from gapgate.artifacts import read_json, write_json
from gapgate.errors import TrackingError
from gapgate.settings.sections import Settings
from pipelines.local import resume
from pipelines.local.cleaning import old_runs
from pipelines.local.result import settings_digest
from tests.serving import packaged

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.onnx


@pytest.fixture
def ended(home: Path) -> Callable[..., RunContext]:
    """A run of `gapgate run` with one figure in its spool; without an exit code one that was killed."""

    def ended(name: str, exit_code: int | None = 0) -> RunContext:
        context = RunContext(name)
        Spool(context.spool, "train").metrics({"train/loss": 0.5}, 1)
        write_json(context.folder / "settings.json", Settings().model_dump(mode="json"))
        failure = {"step": "register", "message": "500", "exit_code": exit_code, "trace": ""} if exit_code else None
        if exit_code is not None:
            write_json(context.folder / "result.json", {"exit_code": exit_code, "failure": failure, "outputs": {}})
        return context

    return ended


def status(context: RunContext) -> str:
    return str(mlflow_client.client().get_run(mlflow_runs.run_id(context)).info.status)


def loss(context: RunContext) -> float:
    return float(mlflow_client.client().get_run(mlflow_runs.run_id(context)).data.metrics["train/loss"])


def unregistered(context: RunContext) -> None:
    """Give a run its artifacts up to the certificate."""
    folder = context.folder / "artifacts" / "g"
    packaged.inputs(folder / "made")
    steps = {
        "splits": "preprocess",
        "policy": "augment",
        "model": "train",
        "evaluation": "evaluate",
        "certificate": "gate",
    }
    for kind, step in steps.items():
        (folder / step).mkdir()
        shutil.move(folder / "made" / kind, folder / step / kind)
    shutil.rmtree(folder / "made")


def test_a_registration_that_failed_for_a_passing_reason_is_made_though_its_reports_have_arrived(
    ended: Callable[..., RunContext], capsys: pytest.CaptureFixture[str]
) -> None:
    context = ended("r1", 4)
    unregistered(context)
    mlflow_runs.finish(context, succeeded=False)
    assert mlflow_runs.is_sent(context)
    # It waits, so nothing of it is freed.
    assert [run.name for run in old_runs(0)] == []
    # The settings are there twice.
    shutil.copy(context.folder / "settings.json", context.spool)
    (context.folder / "settings.json").write_text("{")
    sync()
    assert "r1: sent, registered" in (said := capsys.readouterr().out)
    assert "settings.json was damaged" in said
    champion = Registry().champion("gapgate")
    assert champion is not None
    assert champion.run_id == mlflow_runs.run_id(context)
    assert status(context) == "FINISHED"
    assert read_json(context.folder / "result.json")["failure"] is None
    assert context.decision["alias"] == "champion"
    sync()
    assert "nothing is waiting" in capsys.readouterr().out


def test_a_model_whose_artifacts_are_gone_is_said_once(
    ended: Callable[..., RunContext], capsys: pytest.CaptureFixture[str]
) -> None:
    context = ended("r1", 4)
    sync()
    assert "its artifacts are gone" in capsys.readouterr().out
    assert status(context) == "FAILED"
    sync()
    assert "nothing is waiting" in capsys.readouterr().out


def test_damaged_files_are_named_and_set_aside_and_the_others_are_sent(
    ended: Callable[..., RunContext], capsys: pytest.CaptureFixture[str]
) -> None:
    state, result, settings, spool, whole = (ended(f"r{number}") for number in range(5))
    mlflow_runs.send(state)
    for path in (state.spool / "mlflow.json", result.folder / "result.json", settings.folder / "settings.json"):
        path.write_bytes(path.read_bytes()[:-20])
    with (spool.spool / "train.jsonl").open("ab") as file:
        file.write(b'{"kind": "metrics", "step": "train", "time": 1}\n[1]\n\xff\xfe\n{"kind": "metr')
    sync()
    lines = {line.split(":")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert f"{state.spool}/mlflow.json was damaged and is set aside as mlflow.json.damaged" in lines["r0"]
    assert "result.json was damaged" in lines["r1"]
    assert "settings.json was damaged" in lines["r2"]
    assert "train.jsonl has damaged lines" in lines["r3"]
    assert lines["r4"] == "r4: sent"
    for context in (state, result, settings, spool, whole):
        assert loss(context) == 0.5
    assert (state.spool / "mlflow.json.damaged").exists()
    assert [status(each) for each in (state, settings, spool, whole)] == ["FINISHED"] * 4


def test_what_is_still_unsent_gives_exit_code_4_and_the_others_go_on(
    ended: Callable[..., RunContext], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = ended("r1", 4), ended("r2")
    unregistered(stuck)
    finish = mlflow_runs.finish

    def away(context: RunContext, **further: bool) -> None:
        if context.name == stuck.name:
            raise TrackingError("the server does not answer")
        finish(context, **further)

    monkeypatch.setattr(mlflow_runs, "finish", away)
    with pytest.raises(typer.Exit) as caught:
        sync()
    assert caught.value.exit_code == 4
    printed = capsys.readouterr().out
    assert "r1: the server does not answer" in printed
    assert "r2: sent" in printed
    assert status(other) == "FINISHED"


@pytest.mark.parametrize("has_result", [True, False])
@pytest.mark.parametrize("damaged", ["settings.json", "artifacts/g/train/model/model.onnx"])
def test_a_model_that_can_never_be_registered_is_said_once_and_waits_no_longer(
    ended: Callable[..., RunContext], capsys: pytest.CaptureFixture[str], damaged: str, has_result: bool
) -> None:
    context = ended("r1", 4)
    unregistered(context)
    for name in (damaged,) if has_result else (damaged, "result.json"):
        (context.folder / name).write_bytes((context.folder / name).read_bytes()[:-20])
    sync()
    lack = "its settings are damaged" if damaged == "settings.json" else "model.onnx"
    assert re.search(
        f"r1: sent, but its model cannot be registered, since .*{lack}.*; run again", capsys.readouterr().out
    )
    assert status(context) == "FAILED"
    assert Registry().champion("gapgate") is None
    sync()
    assert "nothing is waiting" in capsys.readouterr().out


def test_a_sweep_is_sent_as_it_ended(ended: Callable[..., RunContext]) -> None:
    """Its result has an exit code alone."""
    context = ended("r1")
    write_json(context.folder / "result.json", {"exit_code": 0})
    assert resume.settle(context) == "sent"
    assert status(context) == "FINISHED"
    assert (context.folder / "result.json").exists()


def test_a_model_is_registered_under_no_other_settings_than_its_run_had(ended: Callable[..., RunContext]) -> None:
    context = ended("r1", 4)
    unregistered(context)
    settings = context.folder / "settings.json"
    result = read_json(context.folder / "result.json") | {"settings": settings_digest(context)}
    summed_json.write(context.folder / "result.json", result)
    settings.write_text(settings.read_text().replace('"model_name": "gapgate"', '"model_name": "gapgatd"'))
    aside: list[str] = []
    assert "its settings are damaged" in resume.settle(context, aside)
    assert "settings.json was damaged and is set aside" in aside[0]
    assert Registry().names() == []


def test_a_killed_run_is_closed_as_killed_by_the_next_command_and_nothing_else_is(
    ended: Callable[..., RunContext],
) -> None:
    killed, alive, unsent = ended("r1", None), ended("r2", None), ended("r3")
    stage = RunContext("r4")  # of DVC: its next stage may begin any time
    Spool(stage.spool, "train").metrics({"train/loss": 0.5}, 1)
    for context in (killed, alive, stage):
        mlflow_runs.send(context)
    temporary = [Path(context.make_scratch()) for context in (killed, alive, unsent)]
    with alive.alive():
        assert resume.close_killed() == ["r1"]
        assert [place.exists() for place in temporary] == [False, True, False]
    assert [status(each) for each in (killed, alive, stage)] == ["KILLED", "RUNNING", "RUNNING"]
    assert not (unsent.spool / "mlflow.json").exists()
    assert resume.close_killed() == ["r2"]
    assert json.loads((killed.spool / "mlflow.json").read_text())["ended"]
