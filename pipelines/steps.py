"""The steps as KFP components: each a few lines that call `components.execute`, in a subprocess, in a container or on a
cluster. KFP copies the source of each function into its pod, so each imports what it needs.

`settings` is the step's section of `params.yaml` as JSON text: KFP's own dict type turns whole numbers into floats.

KFP's cache on a cluster looks up a step by its parameters, the name of its image, its source below and the ids of its
input artifacts (kfp 2.17.0, `cacheutils.GenerateCacheKey`). A step that runs makes new ids, one from the cache has the
old ones. So `resolve` comes first: it runs each time and answers with parameters alone, and all below it can be found.
The code that a step calls is known by the image's tag or digest alone. Each step answers with a digest of what it made,
which the next takes as the parameter `<kind>_digest`.

`pipelines.graph` connects the steps by the names of their parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kfp import dsl

STEP_IMAGE, TRAIN_IMAGE = "gapgate/step", "gapgate/train"
"""Default images, without torch and with it (for augment and train); a run sets them to exact versions."""
_WORDS = {
    "source": "A built-in data set (digits, shapes) or a folder, in the place of the repository.",
    "repository": "Git repository whose .dvc file names the data.",
    "revision": "Its revision; empty: the newest of a URL, the files as they are of a folder.",
    "path": "What DVC tracks in that repository.",
    "reading": "The rest of the section data, as JSON: columns of a table, class names, folders that are splits.",
    "dvc_hash": "DVC's hash of the data, as resolve found it.",
    "settings": "The step's section of params.yaml, as JSON.",
    "experiment": "MLflow experiment.",
    "tensorboard": "Whether event files for TensorBoard are written.",
    "num_gpus": "How many GPUs the step was given; with one it never trains on the CPU.",
    "model_name": "Name in the model registry.",
    "dataset_digest": "Digest of the data set.",
    "splits_digest": "Digest of the splits.",
    "policy_digest": "Digest of the augmentation policy.",
    "model_digest": "Digest of the model.",
    "evaluation_digest": "Digest of the evaluation.",
    "dataset": "The files of the data set, unchanged.",
    "splits": "Images of one size, in train, val and test.",
    "policy": "The augmentation operations, with a preview.",
    "model": "The network: ONNX file, weights and history.",
    "evaluation": "Figures on un-augmented train, val and test images.",
    "figures": "Accuracy of each split, the gap with its interval in points, the calibration error.",
    "classes": "Confusion matrix of the test images, and the ROC curve of two classes.",
    "certificate": "The verdict on each limit.",
    "report": "The whole report, with pictures.",
    "verdict": "The verdict, and what to do now.",
    "registration": "Version in the registry, and receipt.",
    "bento": "What is served.",
}
"""Words for each input and output, by name, as KFP shows them."""


def _component(image: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that makes a function a component which runs in `image`, with words for its inputs and outputs."""

    def make(function: Callable[..., Any]) -> Any:
        component = dsl.component(function, base_image=image, install_kfp_package=False)
        spec = component.component_spec
        for name, entry in {**(spec.inputs or {}), **(spec.outputs or {})}.items():
            entry.description = _WORDS.get(name)
        return component

    return make


@_component(STEP_IMAGE)
def resolve(
    source: str,
    repository: str,
    revision: str,
    path: str,
    reading: str,
    experiment: str,
) -> NamedTuple("Found", [("commit", str), ("dvc_hash", str)]):  # type: ignore[valid-type]
    """Find the commit and the DVC hash of the data; nothing is fetched."""
    import json

    from components.resolve import report
    from gapgate.settings import parse
    from gapgate.settings.sections import DataSettings

    where = {"source": source, "repository": repository, "revision": revision, "path": path}
    return report(parse(DataSettings, where | json.loads(reading), "data"), experiment)


@_component(STEP_IMAGE)
def ingest(
    source: str,
    repository: str,
    revision: str,
    path: str,
    reading: str,
    dvc_hash: str,
    experiment: str,
    dataset: dsl.Output[dsl.Dataset],
) -> str:
    """Fetch exactly one version of the data; the output is its DVC hash."""
    import json

    from components.execute import execute_in_pipeline as execute
    from components.platform.kfp_outputs import describe

    where = {"source": source, "repository": repository, "revision": revision, "path": path}
    made = execute("ingest", json.dumps(where | json.loads(reading)), {}, dataset.path, experiment)
    facts = made.read_json("dataset.json")
    describe(dataset, made, **facts)
    return str(facts["dvc_hash"])


@_component(STEP_IMAGE)
def preprocess(
    settings: str,
    dataset_digest: str,
    experiment: str,
    tensorboard: bool,
    dataset: dsl.Input[dsl.Dataset],
    splits: dsl.Output[dsl.Dataset],
) -> str:
    """Decode and resize the images, and split them into train, val and test."""
    from components.execute import execute_in_pipeline as execute
    from components.platform.kfp_outputs import describe

    made = execute("preprocess", settings, {"dataset": dataset.path}, splits.path, experiment, tensorboard)
    return describe(splits, made).digest


@_component(TRAIN_IMAGE)
def augment(
    settings: str,
    splits_digest: str,
    experiment: str,
    tensorboard: bool,
    splits: dsl.Input[dsl.Dataset],
    policy: dsl.Output[dsl.Artifact],
) -> str:
    """Check the augmentation operations, and draw a preview."""
    from components.execute import execute_in_pipeline as execute
    from components.platform.kfp_outputs import describe

    made = execute("augment", settings, {"splits": splits.path}, policy.path, experiment, tensorboard)
    return describe(policy, made).digest


@_component(TRAIN_IMAGE)
def train(
    settings: str,
    policy_digest: str,
    num_gpus: int,
    experiment: str,
    tensorboard: bool,
    splits: dsl.Input[dsl.Dataset],
    policy: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
) -> str:
    """Fit the network; with GPUs asked for, on a GPU or not at all."""
    import os

    from components.execute import execute_in_pipeline as execute
    from components.platform.kfp_outputs import describe

    os.environ["GAPGATE_NUM_GPUS"] = str(num_gpus)
    inputs = {"splits": splits.path, "policy": policy.path}
    made = execute("train", settings, inputs, model.path, experiment, tensorboard)
    return describe(model, made, framework="ONNX, PyTorch").digest


@_component(STEP_IMAGE)
def evaluate(
    settings: str,
    model_digest: str,
    experiment: str,
    tensorboard: bool,
    splits: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    figures: dsl.Output[dsl.Metrics],
    classes: dsl.Output[dsl.ClassificationMetrics],
) -> str:
    """Measure the ONNX file on un-augmented train, val and test images."""
    from components.execute import execute_in_pipeline as execute
    from components.platform.kfp_outputs import describe, show_figures

    inputs = {"splits": splits.path, "model": model.path}
    made = execute("evaluate", settings, inputs, evaluation.path, experiment, tensorboard)
    show_figures(made, figures, classes)
    return describe(evaluation, made).digest


@_component(STEP_IMAGE)
def gate(
    settings: str,
    evaluation_digest: str,
    experiment: str,
    evaluation: dsl.Input[dsl.Artifact],
    certificate: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    verdict: dsl.Output[dsl.Markdown],
) -> str:
    """Hold the evaluation against the limits; the output is the verdict."""
    from components.execute import execute_in_pipeline as execute
    from components.platform.kfp_outputs import describe, show_verdict

    made = execute("gate", settings, {"evaluation": evaluation.path}, certificate.path, experiment)
    return show_verdict(describe(certificate, made), report, verdict)


@_component(STEP_IMAGE)
def register(
    model_name: str,
    experiment: str,
    splits: dsl.Input[dsl.Dataset],
    policy: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    certificate: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
) -> str:
    """Make a version in the MLflow registry; the output is `known` if an earlier run registered and packaged the model,
    else `new`."""
    import json

    from components.execute import execute_in_pipeline as execute
    from components.platform.kfp_outputs import describe
    from components.platform.run_context import current_decision

    settings = json.dumps({"model_name": model_name})
    inputs = {"splits": splits, "policy": policy, "model": model, "evaluation": evaluation, "certificate": certificate}
    paths = {kind: artifact.path for kind, artifact in inputs.items()}
    made = execute("register", settings, paths, registration.path, experiment)
    facts, decision = made.read_json("registration.json"), current_decision()
    version = f"{facts['name']} version {facts['version']}"
    describe(registration, made, version=version, receipt=facts["receipt"], alias=decision.get("alias", ""))
    return "known" if "known_from" in decision else "new"


@_component(STEP_IMAGE)
def package(
    settings: str,
    experiment: str,
    splits: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    certificate: dsl.Input[dsl.Artifact],
    registration: dsl.Input[dsl.Artifact],
    bento: dsl.Output[dsl.Model],
) -> None:
    """Build the Bento of a model that passed, and make its version champion or challenger."""
    from components.execute import execute_in_pipeline as execute
    from components.platform.kfp_outputs import describe
    from components.platform.run_context import current_decision

    inputs = {"splits": splits, "model": model, "evaluation": evaluation}
    inputs |= {"certificate": certificate, "registration": registration}
    made = execute("package", settings, {kind: each.path for kind, each in inputs.items()}, bento.path, experiment)
    decision = current_decision()
    describe(bento, made, framework="BentoML", **{name: decision.get(name, "") for name in ("alias", "reason")})
