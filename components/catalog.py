"""The graph of the pipeline as data: which step reads what, writes what, and under which settings.

The command line's `gapgate step`, `dvc.yaml` and the KFP graph are held to this table by a test.
"""

from __future__ import annotations

from dataclasses import dataclass

from gapgate.settings.base import Section
from gapgate.settings.sections import (
    AugmentSettings,
    DataSettings,
    EvaluateSettings,
    GateSettings,
    PackageSettings,
    PreprocessSettings,
    RegistrySettings,
    TrainSettings,
)


@dataclass(frozen=True, slots=True)
class Step:
    """Step of the pipeline, which the module `components.<name>` runs."""

    name: str
    section: str
    """Name of its section in `params.yaml`."""
    settings: type[Section]
    inputs: tuple[str, ...]
    """Kinds of artifact that the step reads; each is the output of exactly one step."""
    output: str
    """Kind of artifact that the step writes."""
    trees: tuple[str, ...] = ()
    """Folders in that artifact with many files; each has a file list of its own, beside the manifest."""


STEPS = {
    step.name: step
    for step in (
        Step("ingest", "data", DataSettings, (), "dataset", trees=("files",)),
        Step("preprocess", "preprocess", PreprocessSettings, ("dataset",), "splits"),
        Step("augment", "augment", AugmentSettings, ("splits",), "policy"),
        Step("train", "train", TrainSettings, ("splits", "policy"), "model"),
        Step("evaluate", "evaluate", EvaluateSettings, ("splits", "model"), "evaluation"),
        Step("gate", "gate", GateSettings, ("evaluation",), "certificate"),
        Step(
            "register",
            "registry",
            RegistrySettings,
            # All five: the receipt names the digest of each and the settings of the step that made it.
            ("splits", "policy", "model", "evaluation", "certificate"),
            "registration",
        ),
        Step(
            "package",
            "package",
            PackageSettings,
            # Splits, for the training images in the index of similar images; splits and evaluation, to compare the
            # model with the champion.
            ("splits", "model", "evaluation", "certificate", "registration"),
            "bento",
        ),
    )
}
"""Name → step, in the order in which the steps run."""
RESOLVE = "resolve"
"""Task of a run on a cluster that finds the version of the data, before ingest; no step, since it makes no artifact."""
TASKS = (RESOLVE, *STEPS)
"""Names of the tasks of a run on a cluster, in their order."""
