"""Facts about an artifact, which a step returns after it has filled the folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


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
    when_complete: Callable[[], None] = lambda: None
    """Called when the artifact is complete; train removes its checkpoints then."""
