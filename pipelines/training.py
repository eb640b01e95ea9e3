"""The graph: from a data set to a packaged model, with the gate in it."""

from kfp import dsl

from pipelines import steps


@dsl.pipeline(
    name="gapgate-training",
    description="Train an image classifier, measure its overfitting gap, and package it only if the gate passes.",
)
def training_pipeline(
    data: str,
    preprocess: str,
    augment: str,
    train: str,
    evaluate: str,
    gate: str,
    registry: str,
    package: str,
) -> None:
    """Run the eight steps.

    Args:
        data: Section `data` of the settings, as JSON: which data set, by DVC repository, revision and path.
        preprocess: Section `preprocess`, as JSON: image size, mode and splits.
        augment: Section `augment`, as JSON: the augmentation policy.
        train: Section `train`, as JSON: network, optimizer and loop.
        evaluate: Section `evaluate`, as JSON: intervals and samples.
        gate: Section `gate`, as JSON: the limits that a model has to keep.
        registry: Section `registry`, as JSON: the model's name.
        package: Section `package`, as JSON: what the package holds beside the model.
    """
    dataset = steps.ingest(settings=data).outputs["dataset"]
    splits = steps.preprocess(settings=preprocess, dataset=dataset).outputs["splits"]
    policy = steps.augment(settings=augment, splits=splits).outputs["policy"]
    model = steps.train(settings=train, splits=splits, policy=policy).outputs["model"]
    evaluation = steps.evaluate(settings=evaluate, splits=splits, model=model).outputs["evaluation"]
    judged = steps.gate(settings=gate, evaluation=evaluation)
    certificate = judged.outputs["certificate"]
    registration = steps.register(
        settings=registry, splits=splits, policy=policy, model=model, evaluation=evaluation, certificate=certificate
    ).outputs["registration"]
    with dsl.If(judged.outputs["Output"] == "pass", name="gate-passed"):
        steps.package(settings=package, splits=splits, model=model, certificate=certificate, registration=registration)
