"""Reports of runs on this machine: one with what is known only after the gate, and one of two runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.platform.run_context import RunContext
from components.platform.workspace import runs_dir
from gapgate import artifacts
from gapgate.errors import ArtifactError
from gapgate.report.comparison import Side
from gapgate.report.head import head
from gapgate.report.html import render
from pipelines.local.outputs import outputs_of

REPORT = "report.html"
_NEEDED = ("evaluation", "certificate")


@dataclass(frozen=True, slots=True)
class Reported:
    """A run, or a folder of artifacts, that has a certificate."""

    name: str
    folder: Path
    outputs: Mapping[str, Path]
    """Kind of artifact → its folder."""

    def read(self, kind: str, name: str, default: Any = None) -> Any:
        """The content of a JSON file of an artifact; `default` where it is missing."""
        return artifacts.read_json(self.outputs[kind] / name, default) if kind in self.outputs else default

    @property
    def known(self) -> dict[str, str]:
        """Facts in a report's head that the evaluation does not know."""
        manifest = artifacts.read_manifest(self.outputs["certificate"])
        registration = self.read("registration", "registration.json", {})
        alias = RunContext(self.name).decision.get("alias", "")
        return head(manifest, registration, run=self.name, alias=alias)

    def html(self) -> str:
        """The report, with all that is known by now in its head.

        Raises:
            ArtifactError: a file is missing or damaged.
        """
        evaluation, certificate = (self._needed(kind) for kind in _NEEDED)
        advice = self.read("certificate", "advice.json", [])
        return render(evaluation, self.outputs["evaluation"] / "figures", certificate, advice, self.known)

    def _needed(self, kind: str) -> Any:
        content = self.read(kind, f"{kind}.json")
        if content is None:
            raise ArtifactError(f"{self.outputs[kind] / kind}.json is missing; run it again")
        return content

    def side(self) -> Side:
        """Run as one side of a comparison.

        Raises:
            ArtifactError: a file is missing or damaged.
        """
        evaluation, certificate = (self._needed(kind) for kind in _NEEDED)
        of_inputs = {name: (each or {}).get("settings") for name, each in (evaluation.get("inputs") or {}).items()}
        # Artifacts of DVC's stages have no such file; the evaluation names the settings of what it read.
        settings = artifacts.read_json(self.folder / "settings.json", of_inputs)
        predictions = self.outputs["evaluation"] / "predictions.parquet"
        return Side(
            name=self.name,
            known=self.known,
            settings=settings,
            evaluation=evaluation,
            certificate=certificate,
            predictions=predictions,
            splits=self.outputs.get("splits", self.folder / "splits"),
        )


def find(run: str = "") -> Reported:
    """The run with this name or beginning, the artifacts in this folder (as of `dvc repro`), or the newest run.

    Raises:
        ArtifactError: there is none, it has no certificate, or several begin so.
    """
    if run and (Path(run) / "certificate").is_dir():
        folder = Path(run)
        kinds = (path.parent for path in folder.glob(f"*/{artifacts.MANIFEST}"))
        return _checked(Reported(folder.name, folder, {path.name: path for path in kinds}))
    # A run's name begins with the time (UTC), so names sort by age.
    found = [folder.parent for folder in sorted(runs_dir().glob(f"{run or ''}*/settings.json"))]
    exact = [folder for folder in found if folder.name == run]
    if not run:
        found = [folder for folder in found if (folder / REPORT).exists()][-1:]
    if len(exact or found) != 1:
        said = f"{len(found)} runs begin with {run}; give more of its name" if found else f"no run {run}".rstrip()
        raise ArtifactError(f"{said} in {runs_dir()}; `gapgate run` makes one with a report")
    return of_run(RunContext((exact or found)[0].name))


def of_run(context: RunContext) -> Reported:
    """A run of this workspace.

    Raises:
        ArtifactError: it has no certificate, or its artifacts were removed.
    """
    return _checked(Reported(context.name, context.folder, outputs_of(context)))


def _checked(found: Reported) -> Reported:
    for kind in _NEEDED:
        if kind not in found.outputs:
            raise ArtifactError(f"{found.folder} has no {kind} (removed, or not made yet); run it again")
    return found


def write(found: Reported, place: Path) -> None:
    """Write a run's report to `place`; a link that was there is replaced, not followed."""
    page = found.html()
    if place.is_symlink():
        place.unlink()
    artifacts.write_text(place, page)
