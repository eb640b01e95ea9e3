"""Facts about an artifact, which a step returns after it has filled the folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The data set of a run, as the run's page shows it."""

    source: str
    """Place of the files, as the user named it."""
    digest: str
    """Its DVC hash."""
    num_images: Mapping[str, int]
    """Images of each split."""
    classes: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The return value of a step's `run`."""

    summary: str
    """One line for the terminal."""
    verdict: str = ""
    """Verdict on the model (pass, fail, undecided) of the step that judges it; empty of the others."""
    notes: Sequence[str] = ()
    """Lines that a user must see, on the terminal too."""
    details: Sequence[str] = ()
    """Lines below the summary, in the log of the step."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of the MLflow run."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File in the artifact → the folder of the MLflow run that it is uploaded to. A tracker reads files later, so they
    are handed to it when the artifact has its final place."""
    tables: Mapping[str, str] = field(default_factory=dict)
    """The same for files of a table's `columns` and `data`, which the run's page shows as such."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Image file in the artifact → its key on the run's page, which shows images beside each other and by epoch."""
    params: Mapping[str, object] = field(default_factory=dict)
    """Parameters of the MLflow run beside the settings."""
    data: Data | None = None
    when_complete: Callable[[], None] = lambda: None
    """Called when the artifact is complete; train removes its checkpoints then."""
