"""Trials share what they have in common, are MLflow runs, and leave nothing that `clean` or `sync` cannot mend."""

import shutil

import pytest

from components.platform.tracking import mlflow_client, mlflow_runs
from components.platform.workspace import features_dir, runs_dir, trials_dir
from gapgate.errors import SettingsError
from gapgate.settings import parse
from gapgate.settings.sections import Settings
from pipelines.local import cleaning
from pipelines.local.resume import pending_runs, settle
from pipelines.trials.trial import run_trial


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch, empty_store):
    (tmp_path / "home").mkdir()
    shutil.copyfile(empty_store, tmp_path / "home" / "mlflow.db")
    monkeypatch.setenv("GAPGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow itself sets it; this is undone


def settings_of(**train) -> Settings:
    return parse(Settings, {"data": {"source": "digits"}, "train": {"architecture": "softmax", "epochs": 1} | train})


def test_trials_of_another_seed_share_their_splits_and_have_a_run_each():
    heard = []
    first, second = (run_trial(settings_of(seed=seed), watch=heard.append) for seed in (0, 1))
    assert first.artifacts["splits"].path == second.artifacts["splits"].path
    assert first.artifacts["model"].digest != second.artifacts["model"].digest
    assert not first.was_cached
    assert any(text.startswith("train ") for text in heard)
    runs = [mlflow_client.client().get_run(trial.run_id) for trial in (first, second)]
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    for run, trial in zip(runs, (first, second), strict=True):
        assert run.data.metrics["test/accuracy"] == trial.evaluation["accuracy"]["test"]["value"]
        assert run.data.params["train.seed"] == str(trial.settings.train.seed)


def test_a_trial_that_is_there_is_found_and_is_no_run_of_its_own():
    made, found = run_trial(settings_of()), run_trial(settings_of())
    assert (made.was_cached, found.was_cached) == (False, True)
    assert found.artifacts["certificate"].digest == made.artifacts["certificate"].digest
    assert found.training == made.training
    assert len(list(runs_dir().iterdir())) == 1


def test_clean_frees_what_trials_made_and_the_next_one_makes_it_again():
    run_trial(settings_of())
    (features_dir() / "some.sqlite").parent.mkdir(parents=True)
    (features_dir() / "some.sqlite").write_bytes(b"features")
    trials, features = cleaning.old_runs(keep=0)
    assert (features.name, features.artifacts, features.size_bytes) == ("features", features_dir(), 8)
    assert (trials.name, trials.artifacts) == ("trials", trials_dir())
    assert trials.size_bytes > 10_000
    cleaning.free([trials])
    assert not run_trial(settings_of()).was_cached


def test_a_trial_that_fails_is_sent_as_failed():
    with pytest.raises(SettingsError, match=r"train\.flip_average=true asks"):
        run_trial(settings_of(flip_average=True))
    (context,) = pending_runs()
    settle(context)
    assert mlflow_client.client().get_run(mlflow_runs.run_id(context)).info.status == "FAILED"
