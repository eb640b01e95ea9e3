"""One graph, three surfaces: the catalog (and with it `gapgate step`), dvc.yaml and the compiled KFP pipeline."""

from pathlib import Path

import pytest
import yaml
from kfp import compiler

from components.catalog import STEPS, TASKS
from gapgate.settings.sections import DataSettings, Reading
from pipelines.graph import training_pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[False, True], ids=["local", "cluster"])
def on_cluster(request):
    return request.param


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, on_cluster):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compiler.Compiler().compile(training_pipeline(on_cluster=on_cluster), str(path))
    return next(yaml.safe_load_all(path.read_text()))


@pytest.fixture(scope="module")
def tasks(compiled):
    """Every task of the graph, those under the gate's condition too."""
    found = dict(compiled["root"]["dag"]["tasks"])
    for component in compiled["components"].values():
        found |= component.get("dag", {}).get("tasks", {})
    return {name: task for name, task in found.items() if not name.startswith("condition")}


def test_every_input_is_the_output_of_exactly_one_earlier_step():
    made = []
    for step in STEPS.values():
        assert set(step.inputs) <= set(made)
        assert step.output not in made
        made.append(step.output)


def test_dvc_yaml_has_the_steps_edges_and_parameters_of_the_catalog():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == list(STEPS)
    for name, step in STEPS.items():
        stage = stages[name]
        assert stage["cmd"].split(" || ")[0] == f"gapgate step {name}"
        assert stage["deps"] == ([f"artifacts/{kind}" for kind in step.inputs] or ["data"])
        assert stage["outs"] == [f"artifacts/{step.output}"]
        # The images are prepared for the network, and kept for the way of the measurement.
        of_later_steps = ["train.architecture", "evaluate.method"] if name == "preprocess" else []
        assert stage["params"] == [step.section, *of_later_steps]


def test_the_kfp_graph_has_the_steps_and_edges_of_the_catalog(compiled, tasks, on_cluster):
    assert set(tasks) == set(TASKS if on_cluster else STEPS)
    for name, step in STEPS.items():
        component = compiled["components"][f"comp-{name}"]
        assert set(component["inputDefinitions"].get("artifacts", {})) == set(step.inputs)
        assert step.output in component["outputDefinitions"]["artifacts"]
        parameters = set(component["inputDefinitions"]["parameters"])
        assert "experiment" in parameters
        whole = set(step.settings.model_fields) - (set(Reading.model_fields) if "reading" in parameters else set())
        assert "settings" in parameters or whole <= parameters


def test_each_kfp_input_comes_from_the_step_that_makes_it(tasks):
    producer = {step.output: step.name for step in STEPS.values()}
    for name, task in tasks.items():
        for kind, source in task["inputs"].get("artifacts", {}).items():
            if "taskOutputArtifact" in source:
                origin = source["taskOutputArtifact"]
                found = (origin["producerTask"], origin["outputArtifactKey"])
            else:
                found = tuple(source["componentInputArtifact"].removeprefix("pipelinechannel--").rsplit("-", 1))
            assert found == (producer[kind], kind), (name, kind)


def test_the_pipeline_takes_each_section_once_and_says_what_it_is(compiled):
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    sections = {step.section for step in STEPS.values()} - {"data", "registry"}
    data = {f"data_{name}" for name in DataSettings.model_fields if name not in Reading.model_fields} | {"data_reading"}
    assert set(parameters) == sections | data | {"model_name", "experiment", "tensorboard", "gpu_kind", "num_gpus"}
    assert all(parameter["description"] for parameter in parameters.values())


def test_every_input_and_output_is_described_and_every_task_says_what_it_does(compiled, tasks):
    for name, task in tasks.items():
        component = compiled["components"][f"comp-{name}"]
        for definitions in (component["inputDefinitions"], component["outputDefinitions"]):
            entries = {**definitions.get("parameters", {}), **definitions.get("artifacts", {})}
            assert {key for key, entry in entries.items() if not entry.get("description")} <= {
                "Output",
                "commit",
            }, name
        shown = task["taskInfo"]["name"]
        assert shown.startswith(f"{name}: ")
        assert len(shown) <= 22, f"KFP's page cuts {shown}"


def test_what_a_step_makes_has_the_type_that_kfps_pages_show(compiled):
    kinds = {
        (name.removeprefix("comp-"), key): entry["artifactType"]["schemaTitle"].removeprefix("system.")
        for name, component in compiled["components"].items()
        for key, entry in component.get("outputDefinitions", {}).get("artifacts", {}).items()
    }
    plain = {("augment", "policy"), ("evaluate", "evaluation"), ("gate", "certificate"), ("register", "registration")}
    assert {key for key, kind in kinds.items() if kind == "Artifact"} == plain
    assert {key: kind for key, kind in kinds.items() if kind != "Artifact"} == {
        ("ingest", "dataset"): "Dataset",
        ("preprocess", "splits"): "Dataset",
        ("train", "model"): "Model",
        ("evaluate", "figures"): "Metrics",
        ("evaluate", "classes"): "ClassificationMetrics",
        ("gate", "report"): "HTML",
        ("gate", "verdict"): "Markdown",
        ("package", "bento"): "Model",
    }


def test_package_runs_only_when_the_gate_passed(compiled):
    outermost = [task["triggerPolicy"] for task in compiled["root"]["dag"]["tasks"].values() if "triggerPolicy" in task]
    assert [each["condition"] for each in outermost] == [
        "inputs.parameter_values['pipelinechannel--gate-Output'] == 'pass'"
    ]
