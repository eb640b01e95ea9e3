"""The KFP graph: from a data set to a packaged model, with the gate in it.

On a cluster it begins with `resolve`, so that KFP's cache has the steps of a run before with the same commit, settings
and images, and it does not package a model again that the registry has. KFP's local runner runs the same steps without
both: it keeps no cache here, and a process costs 0.6 s.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from components.catalog import RESOLVE, STEPS
from gapgate.data.sources.classes import reading_of
from gapgate.settings.sections import Reading, Settings
from pipelines import steps

Placed = Callable[[dsl.PipelineTask], None]
"""Function that sets the image, limits and secrets of a task."""
UNCACHED = (RESOLVE, "register", "package")
"""Tasks that are never taken from KFP's cache: a branch moves on, and the registry is outside the pipeline."""
_SHOWN = {
    RESOLVE: "find the data",
    "ingest": "fetch the data",
    "preprocess": "split",
    "augment": "check policy",
    "train": "fit the network",
    "evaluate": "measure",
    "gate": "judge",
    "register": "new version",
    "package": "build Bento",
}
"""Task → the words beside its name in KFP's graph, whose boxes (kfp 2.17) have room for 22 characters."""
_ANSWERS = {"gate": "verdict", "register": "registered"}
"""Step whose output parameter is no digest → the name of that output."""


def training_pipeline(
    place: Placed = lambda task: None,
    config: dsl.PipelineConfig | None = None,
    *,
    on_cluster: bool = False,
    is_cached: bool = True,
) -> Any:
    """The pipeline for KFP's compiler.

    Args:
        place: function that is called with each task; a task has the name of its step.
        config: KFP's settings of the whole pipeline.
        on_cluster: True for the graph with `resolve` and KFP's cache.
        is_cached: False to run every step of a cluster's graph.
    """
    # kfp looks for the source of every frame on the stack at 70 places (kfp 2.17, `_ensure_container_spec_exists`):
    # half a second below the command line, seconds below a test. A thread's own stack is short.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_built, _Graph(place, on_cluster, is_cached), config).result()


def _built(graph: "_Graph", config: dsl.PipelineConfig | None) -> Any:
    # Inside this function, since the decorator runs the body at once, and `graph` must be known by then.
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
        data_reading: str = "{}",
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
            data_reading: The rest of the section "data" as JSON, such as the columns of a table.
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
        graph.connect({name.removeprefix("data_"): value for name, value in locals().items()})

    return gapgate_training


@dataclass(frozen=True, slots=True)
class _Graph:
    """The tasks and their edges, for `training_pipeline`, whose arguments these are."""

    place: Placed
    on_cluster: bool
    is_cached: bool

    def connect(self, known: dict[str, Any]) -> None:
        """Make the task of each step; `known` is the pipeline's parameters, and grows by what each task gives."""
        known["dvc_hash"] = ""
        if self.on_cluster:
            found = self._task(RESOLVE, known).outputs
            known |= {"revision": found["commit"], "dvc_hash": found["dvc_hash"]}
        for step in STEPS.values():
            with self._conditions(step.name, known):
                task = self._task(step.name, known)
            known[step.output] = task.outputs[step.output]
            # KFP's name for what a component returns.
            if "Output" in task.outputs:
                known[_ANSWERS.get(step.name, f"{step.output}_digest")] = task.outputs["Output"]

    def _conditions(self, name: str, known: dict[str, Any]) -> ExitStack:
        """The conditions that the task `name` stands under; only package has any, since a model that did not pass is
        registered too, without an alias."""
        conditions = ExitStack()
        if name == "package":
            # Not compared now: `==` of a KFP output makes a condition of the graph.
            conditions.enter_context(dsl.If(known["verdict"] == "pass", name="gate-passed"))
            if self.on_cluster and self.is_cached:
                # Within the other: `gapgate runs` knows the verdict by whether the outer one held.
                conditions.enter_context(dsl.If(known["registered"] == "new", name="not-packaged-yet"))
        return conditions

    def _task(self, name: str, known: dict[str, Any]) -> dsl.PipelineTask:
        """The task `name`, from those values of `known` that its component takes; a step's settings have its name."""
        component = getattr(steps, name)
        given = known | {"settings": known.get(name)}
        task = component(**{key: given[key] for key in component.component_spec.inputs})
        if name == "train":
            # Kind and number are parameters, so that one compiled pipeline trains with and without a GPU.
            task.set_accelerator_type(known["gpu_kind"]).set_accelerator_limit(known["num_gpus"])
        task.set_display_name(f"{name}: {_SHOWN[name]}")
        task.set_caching_options(self.is_cached and name not in UNCACHED)
        self.place(task)
        return task


def arguments(settings: Settings) -> dict[str, Any]:
    """The pipeline's parameters, by name, for these settings.

    Raises:
        DataError: the file of class names cannot be read.
    """
    sections = settings.model_dump(mode="json")
    # The file of class names is on this machine; the steps may run elsewhere.
    reading = reading_of(settings.data).model_dump(mode="json")
    data = {name: value for name, value in sections["data"].items() if name not in reading}
    return {
        **{f"data_{name}": value for name, value in data.items()},
        # A pipeline that was compiled before there were such answers has no parameter for them, and needs none.
        **({"data_reading": json.dumps(reading)} if reading != Reading().model_dump(mode="json") else {}),
        **{
            # As text: KFP turns the whole numbers of a dict parameter into floats.
            name: json.dumps(sections[name])
            for name in ("preprocess", "augment", "train", "evaluate", "gate", "package")
        },
        "model_name": settings.registry.model_name,
        "experiment": settings.tracking.experiment,
        "tensorboard": settings.tracking.tensorboard,
    }
