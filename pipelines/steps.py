"""The steps as KFP components: each a few lines that call `components.execute`, in a subprocess, in a container or on a
cluster. KFP copies the source of each function into its pod, so each imports what it needs.

`settings` is the step's section of `params.yaml` as JSON text: KFP's own dict type turns whole numbers into floats. KFP
looks up what it may take from its cache by a step's parameters and image, not by the content of its artifacts. So each
step answers with a digest of what it made, and the next takes it as the parameter `<kind>_digest`.

`pipelines.graph` connects the steps by the names of their parameters.
"""

from kfp import dsl

STEP_IMAGE, TRAIN_IMAGE = "gapgate/step", "gapgate/train"
"""Default images, without torch and with it (for augment and train); a run sets them to exact versions."""


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def ingest(
    source: str, repository: str, revision: str, path: str, experiment: str, dataset: dsl.Output[dsl.Artifact]
) -> str:
    """Exactly one version of the data; the output is its DVC hash."""
    import json

    from components.execute import execute_in_pipeline as execute

    settings = json.dumps({"source": source, "repository": repository, "revision": revision, "path": path})
    return str(execute("ingest", settings, {}, dataset.path, experiment).read_json("dataset.json")["dvc_hash"])


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def preprocess(
    settings: str,
    dataset_digest: str,
    experiment: str,
    tensorboard: bool,
    dataset: dsl.Input[dsl.Artifact],
    splits: dsl.Output[dsl.Artifact],
) -> str:
    """Decode, resize and split the images."""
    from components.execute import execute_in_pipeline as execute

    return execute("preprocess", settings, {"dataset": dataset.path}, splits.path, experiment, tensorboard).digest


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def augment(
    settings: str,
    splits_digest: str,
    experiment: str,
    tensorboard: bool,
    splits: dsl.Input[dsl.Artifact],
    policy: dsl.Output[dsl.Artifact],
) -> str:
    """Validate and preview the augmentation policy."""
    from components.execute import execute_in_pipeline as execute

    return execute("augment", settings, {"splits": splits.path}, policy.path, experiment, tensorboard).digest


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def train(
    settings: str,
    policy_digest: str,
    num_gpus: int,
    experiment: str,
    tensorboard: bool,
    splits: dsl.Input[dsl.Artifact],
    policy: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Artifact],
) -> str:
    """Fit the network; with GPUs asked for, on a GPU or not at all."""
    import os

    from components.execute import execute_in_pipeline as execute

    os.environ["GAPGATE_NUM_GPUS"] = str(num_gpus)
    inputs = {"splits": splits.path, "policy": policy.path}
    return execute("train", settings, inputs, model.path, experiment, tensorboard).digest


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def evaluate(
    settings: str,
    model_digest: str,
    experiment: str,
    tensorboard: bool,
    splits: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Artifact],
    evaluation: dsl.Output[dsl.Artifact],
    figures: dsl.Output[dsl.Metrics],
) -> str:
    """Measure the ONNX file on un-augmented train, val and test images."""
    from components.execute import execute_in_pipeline as execute

    inputs = {"splits": splits.path, "model": model.path}
    result = execute("evaluate", settings, inputs, evaluation.path, experiment, tensorboard)
    figures.metadata.update(result.read_json("metrics.json"))
    return result.digest


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def gate(
    settings: str,
    evaluation_digest: str,
    experiment: str,
    evaluation: dsl.Input[dsl.Artifact],
    certificate: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> str:
    """Hold the evaluation against the limits; the output is the verdict."""
    import shutil

    from components.execute import execute_in_pipeline as execute

    result = execute("gate", settings, {"evaluation": evaluation.path}, certificate.path, experiment)
    shutil.copyfile(result.path / "report.html", report.path)
    return str(result.read_json("certificate.json")["verdict"])


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def register(
    model_name: str,
    experiment: str,
    splits: dsl.Input[dsl.Artifact],
    policy: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Artifact],
    evaluation: dsl.Input[dsl.Artifact],
    certificate: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
) -> None:
    """Make a version in the MLflow registry, with its aliases and receipt."""
    import json

    from components.execute import execute_in_pipeline as execute

    settings = json.dumps({"model_name": model_name})
    inputs = {"splits": splits, "policy": policy, "model": model, "evaluation": evaluation, "certificate": certificate}
    paths = {kind: artifact.path for kind, artifact in inputs.items()}
    execute("register", settings, paths, registration.path, experiment)


@dsl.component(base_image=STEP_IMAGE, install_kfp_package=False)
def package(
    settings: str,
    experiment: str,
    splits: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Artifact],
    certificate: dsl.Input[dsl.Artifact],
    registration: dsl.Input[dsl.Artifact],
    bento: dsl.Output[dsl.Artifact],
) -> None:
    """Build the Bento of a model that passed."""
    from components.execute import execute_in_pipeline as execute

    inputs = {"splits": splits, "model": model, "certificate": certificate, "registration": registration}
    paths = {kind: artifact.path for kind, artifact in inputs.items()}
    execute("package", settings, paths, bento.path, experiment)
