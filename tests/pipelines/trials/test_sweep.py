"""`gapgate sweep`: a grid over one or two settings."""

import csv

import mlflow
import pytest
from PIL import Image

from gapgate import artifacts
from gapgate.errors import SettingsError
from gapgate.settings import load
from pipelines.trials.sweep import plan
from tests.end_to_end.workspace import Workspace

GRID = ("sweep", "digits", "--over", "train.epochs=1,2", "--over", "train.batch_size=32,64")
SETTINGS = ("train.architecture=softmax", "evaluate.num_resamples=1000", "evaluate.worst_errors=0")
QUICK = tuple(part for setting in SETTINGS for part in ("--set", setting))


def planned(*overs, seeds=1):
    return plan(lambda more: load(None, more), overs, seeds)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, empty_store):
    """A workspace with one sweep of four cells, and what it printed."""
    workspace = Workspace(tmp_path_factory.mktemp("sweep")).with_store(empty_store)
    done = workspace.gapgate(*GRID, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace, done.stdout


def folder_of(workspace, printed):
    """Where a sweep's files are, as it says."""
    (path,) = (word for word in printed.split() if word.endswith("sweep.html"))
    return (workspace.folder / path).parent


def client_of(workspace):
    return mlflow.MlflowClient(f"sqlite:///{workspace.folder}/.gapgate/mlflow.db")


def runs_of(client, experiment="gapgate"):
    """The parent, and its children by the name of their cell."""
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    return parent, {run.info.run_name: run for run in children}


def test_every_cell_is_a_run_below_the_sweeps_own_with_its_params_and_figures(swept):
    workspace, printed = swept
    table = artifacts.read_json(folder_of(workspace, printed) / "sweep.json")
    parent, children = runs_of(client_of(workspace))
    assert set(children) == {f"epochs={epochs}, batch_size={size}" for epochs in (1, 2) for size in (32, 64)}
    for cell in table["cells"]:
        epochs, size = (value.partition("=")[2] for value in cell["set"])
        run = children[f"epochs={epochs}, batch_size={size}"]
        assert (run.data.params["train.epochs"], run.data.params["train.batch_size"]) == (epochs, size)
        for name, metric in {"test_accuracy": "test/accuracy", "gap_points": "gap/points"}.items():
            assert run.data.metrics[metric] == pytest.approx(cell[name]["mean"])
        assert run.data.metrics["val/accuracy"] == pytest.approx(cell["val_accuracy"]["mean"], abs=1e-4)
    best = max(table["cells"], key=lambda cell: (cell["val_accuracy"]["mean"], -cell["val_loss"]["mean"]))
    assert table["best"] == best["set"]
    assert parent.data.metrics["best/val_accuracy"] == best["val_accuracy"]["mean"]


def test_the_parent_run_has_the_heat_maps_the_table_and_the_report(swept, tmp_path):
    workspace, printed = swept
    client = client_of(workspace)
    parent, _ = runs_of(client)
    kept = {item.path for item in client.list_artifacts(parent.info.run_id, "sweep")}
    names = ("val_accuracy.png", "gap_points.png", "sweep.json", "sweep.csv", "sweep.html")
    assert kept == {f"sweep/{name}" for name in names}
    with Image.open(client.download_artifacts(parent.info.run_id, "sweep/val_accuracy.png", tmp_path)) as heat_map:
        assert len(set(heat_map.convert("RGB").getdata())) > 20
    rows = csv.DictReader((folder_of(workspace, printed) / "sweep.csv").read_text().splitlines())
    cells = [(row["train.epochs"], row["train.batch_size"]) for row in rows]
    assert cells == [("1", "32"), ("1", "64"), ("2", "32"), ("2", "64")]


def test_the_report_needs_nothing_else_and_the_terminal_says_how_to_go_on(swept):
    workspace, printed = swept
    folder = folder_of(workspace, printed)
    page = (folder / "sweep.html").read_text()
    best = artifacts.read_json(folder / "sweep.json")["best"]
    command = f"gapgate run digits {' '.join(QUICK)} " + " ".join(f"--set {one}" for one in best)
    assert command in page
    assert command in printed
    assert page.count("data:image/png") == 4
    assert "://" not in page


def test_a_second_call_trains_nothing_and_makes_no_further_run(swept):
    """A training that was asked for a GPU would end with an error here."""
    workspace, printed = swept
    report = folder_of(workspace, printed) / "sweep.html"
    page = report.read_bytes()
    again = workspace.gapgate(*GRID, *QUICK, GAPGATE_NUM_GPUS="1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("(read back)") == 4
    assert len(runs_of(client_of(workspace))[1]) == 4
    assert folder_of(workspace, again.stdout) == report.parent
    assert report.read_bytes() == page


def test_cells_that_another_sweep_has_trained_get_runs_below_this_one(swept):
    workspace, _ = swept
    overlapping = ("sweep", "digits", "--over", "train.epochs=1,2", *QUICK, "--set", "train.batch_size=32")
    done = workspace.gapgate(*overlapping, "--set", "tracking.experiment=other", GAPGATE_NUM_GPUS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    _, children = runs_of(client_of(workspace), "other")
    assert set(children) == {"epochs=1", "epochs=2"}
    assert children["epochs=2"].data.params["train.batch_size"] == "32"
    assert children["epochs=2"].data.metrics["val/loss"] > 0


def test_a_cell_that_cannot_be_trained_says_why_and_the_others_are_trained(swept):
    workspace, _ = swept
    over = ("--over", "train.flip_average=false,true", "--seeds", "2", "--set", "tracking.experiment=seeds")
    done = workspace.gapgate("sweep", "digits", *over, *QUICK, "--set", "train.epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    reason = "train.flip_average=true asks a network about mirror images that it has not seen"
    assert f"✗ flip_average=true: {reason}" in " ".join(done.stdout.split())
    good, bad = artifacts.read_json(folder_of(workspace, done.stdout) / "sweep.json")["cells"]
    assert [trial["seed"] for trial in good["trials"]] == [0, 1]
    assert good["val_accuracy"]["standard_deviation"] > 0
    assert bad["failure"].startswith(reason)
    assert set(runs_of(client_of(workspace), "seeds")[1]) == {
        "flip_average=false, seed 0",
        "flip_average=false, seed 1",
    }


def test_a_sweep_without_a_cell_that_can_be_trained_is_one_line(swept):
    done = swept[0].gapgate("sweep", "digits", "--over", "train.epochs=1,2", *QUICK, "--set", "train.flip_average=true")
    assert done.returncode == 2
    assert done.stderr.startswith("error: train.flip_average=true asks")
    assert len(done.stderr.splitlines()) == 1


def test_the_grid_runs_through_the_second_setting_first_and_values_are_yaml():
    sweep = planned(
        "train.architecture=small,[{type: flatten}, {type: dense}]", "train.learning_rate=1e-3, 0.01", seeds=3
    )
    assert [cell.values for cell in sweep.cells] == [
        ("small", "1e-3"),
        ("small", "0.01"),
        ("[{type: flatten}, {type: dense}]", "1e-3"),
        ("[{type: flatten}, {type: dense}]", "0.01"),
    ]
    last = sweep.cells[-1].settings
    assert [settings.train.seed for settings in last] == [0, 1, 2]
    assert len(last[0].train.architecture) == 2
    assert last[0].train.learning_rate == 0.01
    assert sweep.cells[0].label == "architecture=small, learning_rate=1e-3"


@pytest.mark.parametrize(
    ("overs", "said"),
    [
        ((), "0 times --over; name one setting or two"),
        (("train.epochs",), "--over train.epochs is not NAME=V1,V2,…"),
        (("train.epochs=",), "--over train.epochs= has no value"),
        (("train.epochs=1,,2",), "the values are no list"),
        (("train.epochs=[1",), "the values are no list"),
        (("train.epoch=1,2",), "train.epoch is not a setting; did you mean train.epochs?"),
        (("trains.epochs=1,2",), "trains is not a setting; did you mean train?"),
        (("train.epochs=1,0",), "train.epochs=0 is below the limit 1"),
        (("train.epochs=1,two",), "train.epochs=two"),
        (("train.learning_rate=0.001,1e-3",), "0.001 and 1e-3 are the same; leave one out"),
        (("train.epochs=1,2", "train.epochs=3"), "--over train.epochs stands twice"),
        (("train.epochs=1", "train.seed=1", "train.momentum=0"), "3 times --over"),
        (("gate.max_ece=0.1,0.2",), "--over gate.max_ece: no figure depends on it"),
        (("train.architecture.conv.filters=1,2",), "--over train.architecture.conv.filters=1: "),
        (
            ("preprocess.test_fraction=0.2,0.5", "preprocess.val_fraction=0.1,0.5"),
            "preprocess.test_fraction=0.5 and preprocess.val_fraction=0.5 do not fit each other",
        ),
    ],
)
def test_a_mistake_is_said_in_one_line_before_anything_is_trained(overs, said):
    with pytest.raises(SettingsError) as error:
        planned(*overs)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_seeds_cannot_be_swept_and_repeated_at_once():
    with pytest.raises(SettingsError, match="both change the seed"):
        planned("train.seed=1,2", seeds=2)


def test_the_same_sweep_has_the_same_name_and_another_has_another():
    same = {planned("train.epochs=1,2").context.name for _ in range(2)}
    others = {planned("train.epochs=1,3").context.name, planned("train.epochs=1,2", seeds=2).context.name}
    assert len(same) == 1
    assert len(same | others) == 3
