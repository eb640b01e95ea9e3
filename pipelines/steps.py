"""The steps as KFP components: each a few lines that call `components.execute`, in a subprocess, in a container or on a
cluster. KFP copies the source of each function into its pod, so each imports what it needs.

`settings` is the step's section of `params.yaml` as JSON text: KFP's own dict type turns whole numbers into floats.
"""

import os

from kfp import dsl

STEP_IMAGE = os.environ.get("GAPGATE_STEP_IMAGE", "gapgate/step-python")
"""Image of the steps without torch."""
TRAIN_IMAGE = os.environ.get("GAPGATE_TRAIN_IMAGE", "gapgate/train-python")
"""Image of augment and train."""


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def ingest(settings: str, dataset: dsl.Output[dsl.Artifact]) -> None:
    """Exactly one version of the data, by hash."""
    from components.execute import execute

    execute("ingest", settings, {}, dataset.path)


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def preprocess(settings: str, dataset: dsl.Input[dsl.Artifact], splits: dsl.Output[dsl.Artifact]) -> None:
    """Decode, resize and split the images."""
    from components.execute import execute

    execute("preprocess", settings, {"dataset": dataset.path}, splits.path)


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def augment(settings: str, splits: dsl.Input[dsl.Artifact], policy: dsl.Output[dsl.Artifact]) -> None:
    """Validate and preview the augmentation policy."""
    from components.execute import execute

    execute("augment", settings, {"splits": splits.path}, policy.path)


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def train(
    settings: str,
    splits: dsl.Input[dsl.Artifact],
    policy: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Artifact],
) -> None:
    """Fit the network."""
    from components.execute import execute

    execute("train", settings, {"splits": splits.path, "policy": policy.path}, model.path)


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def evaluate(
    settings: str,
    splits: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Artifact],
    evaluation: dsl.Output[dsl.Artifact],
    figures: dsl.Output[dsl.Metrics],
) -> None:
    """Measure the ONNX file on un-augmented train, val and test images."""
    from components.execute import execute

    result = execute("evaluate", settings, {"splits": splits.path, "model": model.path}, evaluation.path)
    figures.metadata.update(result.read_json("metrics.json"))


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def gate(
    settings: str,
    evaluation: dsl.Input[dsl.Artifact],
    certificate: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> str:
    """Hold the evaluation against the limits; the output is the verdict."""
    import shutil

    from components.execute import execute

    result = execute("gate", settings, {"evaluation": evaluation.path}, certificate.path)
    shutil.copyfile(result.path / "report.html", report.path)
    return str(result.read_json("certificate.json")["verdict"])


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def register(
    settings: str,
    splits: dsl.Input[dsl.Artifact],
    policy: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Artifact],
    evaluation: dsl.Input[dsl.Artifact],
    certificate: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
) -> None:
    """Make a version in the MLflow registry, with its aliases and receipt."""
    from components.execute import execute

    inputs = {"splits": splits, "policy": policy, "model": model, "evaluation": evaluation, "certificate": certificate}
    execute("register", settings, {kind: artifact.path for kind, artifact in inputs.items()}, registration.path)


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def package(
    settings: str,
    splits: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Artifact],
    certificate: dsl.Input[dsl.Artifact],
    registration: dsl.Input[dsl.Artifact],
    bento: dsl.Output[dsl.Artifact],
) -> None:
    """Build the Bento of a model that passed."""
    from components.execute import execute

    inputs = {"splits": splits, "model": model, "certificate": certificate, "registration": registration}
    execute("package", settings, {kind: artifact.path for kind, artifact in inputs.items()}, bento.path)
