"""The graph: from a data set to a packaged model, with the gate in it."""

import json
from collections.abc import Callable
from typing import Any

from kfp import dsl

from gapgate.settings.sections import Settings
from pipelines import steps

Placed = Callable[[dsl.PipelineTask], None]
"""Says where a task runs, with what: its image, its limits, its secrets."""
UNCACHED = ("ingest", "register", "package")
"""Steps that must run each time: a branch moves on, and the registry is outside of the pipeline."""


def training_pipeline(place: Placed = lambda task: None, config: dsl.PipelineConfig | None = None) -> Any:
    """The pipeline, for KFP's compiler; `place` is called with each of its tasks, by the names of the steps."""

    def placed(task: dsl.PipelineTask) -> dsl.PipelineTask:
        if task.name in UNCACHED:
            task.set_caching_options(False)
        place(task)
        return task

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
        ingested = placed(
            steps.ingest(
                source=data_source,
                repository=data_repository,
                revision=data_revision,
                path=data_path,
                experiment=experiment,
            )
        )
        preprocessed = placed(
            steps.preprocess(
                settings=preprocess,
                data_hash=ingested.outputs["Output"],
                experiment=experiment,
                tensorboard=tensorboard,
                dataset=ingested.outputs["dataset"],
            )
        )
        splits = preprocessed.outputs["splits"]
        augmented = placed(
            steps.augment(
                settings=augment,
                splits_digest=preprocessed.outputs["Output"],
                experiment=experiment,
                tensorboard=tensorboard,
                splits=splits,
            )
        )
        policy = augmented.outputs["policy"]
        trained = placed(
            steps.train(
                settings=train,
                policy_digest=augmented.outputs["Output"],
                num_gpus=num_gpus,
                experiment=experiment,
                tensorboard=tensorboard,
                splits=splits,
                policy=policy,
            )
            .set_accelerator_type(gpu_kind)
            .set_accelerator_limit(num_gpus)
        )
        model = trained.outputs["model"]
        evaluated = placed(
            steps.evaluate(
                settings=evaluate,
                model_digest=trained.outputs["Output"],
                experiment=experiment,
                tensorboard=tensorboard,
                splits=splits,
                model=model,
            )
        )
        evaluation = evaluated.outputs["evaluation"]
        judged = placed(
            steps.gate(
                settings=gate,
                evaluation_digest=evaluated.outputs["Output"],
                experiment=experiment,
                evaluation=evaluation,
            )
        )
        certificate = judged.outputs["certificate"]
        registered = placed(
            steps.register(
                model_name=model_name,
                experiment=experiment,
                splits=splits,
                policy=policy,
                model=model,
                evaluation=evaluation,
                certificate=certificate,
            )
        )
        with dsl.If(judged.outputs["Output"] == "pass", name="gate-passed"):
            placed(
                steps.package(
                    settings=package,
                    experiment=experiment,
                    splits=splits,
                    model=model,
                    certificate=certificate,
                    registration=registered.outputs["registration"],
                )
            )

    return gapgate_training


def arguments(settings: Settings) -> dict[str, Any]:
    """The pipeline's parameters for settings."""
    sections = settings.model_dump(mode="json")
    return {
        **{f"data_{name}": value for name, value in sections["data"].items()},
        **{
            name: json.dumps(sections[name])
            for name in ("preprocess", "augment", "train", "evaluate", "gate", "package")
        },
        "model_name": settings.registry.model_name,
        "experiment": settings.tracking.experiment,
        "tensorboard": settings.tracking.tensorboard,
    }
