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
    """One step: the module `components.<name>`."""

    name: str
    section: str
    """Its settings in `params.yaml`."""
    settings: type[Section]
    inputs: tuple[str, ...]
    """Kinds of artifact it reads; each is the output of exactly one step."""
    output: str
    """Kind of artifact it writes."""
    trees: tuple[str, ...] = ()
    """Folders of that artifact with many files, which its manifest lists in a file of their own."""


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
            ("splits", "policy", "model", "evaluation", "certificate"),
            "registration",
        ),
        Step("package", "package", PackageSettings, ("splits", "model", "certificate", "registration"), "bento"),
    )
}
"""In the order in which they run."""
