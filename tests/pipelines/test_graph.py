"""One graph, three surfaces: the catalog (and with it `gapgate step`), dvc.yaml and the compiled KFP pipeline."""

from pathlib import Path

import pytest
import yaml
from kfp import compiler

from components.catalog import STEPS
from gapgate.settings.sections import DataSettings
from pipelines.graph import training_pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compiler.Compiler().compile(training_pipeline(), str(path))
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
        assert stage["params"] == [step.section]


def test_the_kfp_graph_has_the_steps_and_edges_of_the_catalog(compiled, tasks):
    assert set(tasks) == set(STEPS)
    for name, step in STEPS.items():
        component = compiled["components"][f"comp-{name}"]
        assert set(component["inputDefinitions"].get("artifacts", {})) == set(step.inputs)
        assert step.output in component["outputDefinitions"]["artifacts"]
        parameters = set(component["inputDefinitions"]["parameters"])
        assert "experiment" in parameters
        assert "settings" in parameters or set(step.settings.model_fields) <= parameters


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
    data = {f"data_{name}" for name in DataSettings.model_fields}
    assert set(parameters) == sections | data | {"model_name", "experiment", "tensorboard", "gpu_kind", "num_gpus"}
    assert all(parameter["description"] for parameter in parameters.values())


def test_package_runs_only_when_the_gate_passed(compiled):
    conditions = [
        task["triggerPolicy"]["condition"]
        for task in compiled["root"]["dag"]["tasks"].values()
        if "triggerPolicy" in task
    ]
    assert conditions == ["inputs.parameter_values['pipelinechannel--gate-Output'] == 'pass'"]
