"""The KFP graph: from a data set to a packaged model, with the gate in it."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from kfp import dsl

from components.catalog import STEPS
from gapgate.settings.sections import Settings
from pipelines import steps

Placed = Callable[[dsl.PipelineTask], None]
"""Function that sets the image, limits and secrets of a task."""
UNCACHED = ("ingest", "register", "package")
"""Steps that must run each time: a branch moves on, and the registry is outside the pipeline."""


def training_pipeline(place: Placed = lambda task: None, config: dsl.PipelineConfig | None = None) -> Any:
    """The pipeline for KFP's compiler; `place` is called with each of its tasks, which have the names of the steps."""

    # Inside this function, since the decorator runs the body at once, and `place` must be known by then.
    @dsl.pipeline(
        name="gapgate-training",
        description="Train an image classifier, measure its overfitting gap, and package it only if the gate passes.",
        pipeline_config=config,
    )
    def gapgate_training(
        data_repository: str = ".",
        data_revision: str = "",
        data_path: str = "data",
        data_source: str = "",
        preprocess: str = "{}",
        augment: str = "{}",
        train: str = "{}",
        evaluate: str = "{}",
        gate: str = "{}",
        package: str = "{}",
        model_name: str = "gapgate",
        experiment: str = "gapgate",
        tensorboard: bool = False,
        gpu_kind: str = "nvidia.com/gpu",
        num_gpus: int = 0,
    ) -> None:
        """Run the eight steps.

        Args:
            data_repository: Git repository whose .dvc file names the data; a URL, or a folder where the steps run.
            data_revision: Its revision; empty takes the newest of a URL, and the files as they are of a folder.
            data_path: What DVC tracks in that repository.
            data_source: A built-in data set (digits, shapes) or a folder, in the place of the three above.
            preprocess: Section "preprocess" of the settings as JSON; what it leaves out has its default.
            augment: Section "augment", as JSON.
            train: Section "train", as JSON.
            evaluate: Section "evaluate", as JSON.
            gate: Section "gate", as JSON; the limits that a model has to keep.
            package: Section "package", as JSON.
            model_name: Name in the model registry.
            experiment: MLflow experiment.
            tensorboard: Whether event files for TensorBoard are written beside the run.
            gpu_kind: Kubernetes resource of the GPU that trains, such as nvidia.com/gpu or amd.com/gpu.
            num_gpus: How many; 0 trains on the CPU.
        """
        # All parameters by name; those of the data set as ingest calls them.
        _connect({name.removeprefix("data_"): value for name, value in locals().items()}, place)

    return gapgate_training


def _connect(known: dict[str, Any], place: Placed) -> None:
    """Make the task of each step, from those values of `known` that its component takes as inputs.

    Args:
        known: the pipeline's parameters; a step's settings have the name of the step.
        place: function that is called with each task.
    """
    for step in STEPS.values():
        component = getattr(steps, step.name)
        given = known | {"settings": known.get(step.name)}
        # Only package is conditional: a model that did not pass is registered too, without an alias.
        with dsl.If(known["verdict"] == "pass", name="gate-passed") if step.name == "package" else nullcontext():
            task = component(**{name: given[name] for name in component.component_spec.inputs})
            if step.name == "train":
                # Kind and number are parameters, so that one compiled pipeline trains with and without a GPU.
                task.set_accelerator_type(known["gpu_kind"]).set_accelerator_limit(known["num_gpus"])
            if step.name in UNCACHED:
                task.set_caching_options(False)
            place(task)
        known[step.output] = task.outputs[step.output]
        if "Output" in task.outputs:
            # Digests are parameters of the next step: KFP's cache key does not see the content of artifacts.
            known["verdict" if step.name == "gate" else f"{step.output}_digest"] = task.outputs["Output"]


def arguments(settings: Settings) -> dict[str, Any]:
    """The pipeline's parameters, by name, for these settings."""
    sections = settings.model_dump(mode="json")
    return {
        **{f"data_{name}": value for name, value in sections["data"].items()},
        **{
            # As text: KFP turns the whole numbers of a dict parameter into floats.
            name: json.dumps(sections[name])
            for name in ("preprocess", "augment", "train", "evaluate", "gate", "package")
        },
        "model_name": settings.registry.model_name,
        "experiment": settings.tracking.experiment,
        "tensorboard": settings.tracking.tensorboard,
    }
