"""Note on a model for a tracker or a registry: its evaluation and the gate's words, as a short page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gapgate.evidence.advice import in_lines
from gapgate.report.verdict import plain
from gapgate.text import number, percent

HEADING = "### Gate"
REPORT, BENTO = "report/report.html", "package/model.bento"
"""Places of the report and the Bento among a run's artifacts."""


def note(evaluation: Mapping[str, Any], certificate: Mapping[str, Any], advice: Sequence[Mapping[str, Any]]) -> str:
    """Write the verdict, its figures with their intervals, what to do now, and links (`run:…`) to the files."""
    verdict = certificate["verdict"]
    lines = [f"{HEADING}: {verdict}", ""]
    checks = certificate.get("checks", [])
    missed = [check for check in checks if check["verdict"] != "pass"]
    lines += [f"- {check['verdict']}: {plain(check['reason'])}" for check in missed] or [
        f"- pass: {len(checks)} checks"
    ]
    lines += ["", _row("", "value", "95 % interval", "images"), "|---|---|---|---|"]
    for split, found in _splits(evaluation):
        interval = f"{percent(found['low'])} to {percent(found['high'])}"
        lines.append(_row(f"{split} accuracy", percent(found["value"]), interval, f"{found['num_images']:,}"))
    gap = evaluation.get("gap") or {}
    if gap.get("points") is not None:
        interval = f"{number(gap['low'])} to {number(gap['high'])}"
        lines.append(_row("gap, train − test", f"{number(gap['points'])} points", interval, ""))
    if advice:
        lines += ["", "### What now", "", *map(plain, in_lines(advice))]
    links = [f"[report](run:{REPORT})", *([f"[Bento](run:{BENTO})"] if verdict == "pass" else [])]
    return "\n".join([*lines, "", " · ".join(links)])


def _row(*cells: str) -> str:
    # MLflow's pages put no space between the columns of a table.
    return f"| {' | '.join(f'{cell}&emsp;' for cell in cells)} |"


def _splits(evaluation: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The splits whose accuracy was measured; an evaluation with a figure missing is noted too, as one that failed."""
    found = evaluation.get("accuracy") or {}
    needed = {"value", "low", "high", "num_images"}
    return [(split, found[split]) for split in ("train", "val", "test") if needed <= set(found.get(split) or {})]
