"""The table that the abuse benchmark prints."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "| what was done | what happened | promised | |\n|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Line:
    """One row: a promise, and whether it was kept."""

    done: str
    figure: str
    limit: str
    is_kept: bool

    def __str__(self) -> str:
        return f"| {self.done} | {self.figure} | {self.limit} | {'ok' if self.is_kept else 'MISSED'} |"
