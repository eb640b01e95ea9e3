"""package: Model, Certificate and Registration → a Bento that serves the model, without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gapgate
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.errors import ArtifactError, GateError, StorageError
from gapgate.tracking import Tracker

ARCHIVE = "model.bento"
_FILES = {
    "model": ("model.onnx", "transform.json", "architecture.json"),
    "certificate": ("certificate.json",),
    "registration": ("registration.json", "receipt.json"),
}
_LINEAGE = {"kind", "schema_version", "step", "settings", "inputs", "files", "trees", "digest"}


def run(settings: None, inputs: Mapping[str, Artifact], out_dir: Path, tracker: Tracker) -> Artifact:
    """Build a Bento of `inputs["model"]`, with `inputs["certificate"]` and `inputs["registration"]` inside.

    Writes `model.bento`, which `bentoml import` reads, and `package.json`. Equal inputs give equal bytes.

    Raises:
        GateError: the certificate's verdict is not pass.
        ArtifactError: the registration is of another model or certificate, or BentoML cannot build the Bento.
        StorageError: the disk is full.
    """
    verdict = inputs["certificate"].read_json("certificate.json")["verdict"]
    if verdict != "pass":
        raise GateError(f"the certificate's verdict is {verdict}; only a model that passed the gate is packaged")
    _check_lineage(inputs)
    registration = inputs["registration"].read_json("registration.json")
    tag = bento_tag(registration["name"], registration["version"], inputs["model"].digest)
    with artifacts.create(out_dir, kind="bento", step="package", settings={}, inputs=inputs) as folder:
        with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}-") as scratch:
            _collect(inputs, Path(scratch, "model"))
            _build(Path(scratch), tag, folder / ARCHIVE)
        facts = {
            "tag": tag,
            "size_bytes": (folder / ARCHIVE).stat().st_size,
            "model": {"name": registration["name"], "version": registration["version"]},
            "receipt": registration["receipt"],
        }
        artifacts.write_json(folder / "package.json", facts)
    tracker.tags({"bento.tag": tag})
    tracker.file(out_dir / "package.json", "package")
    return artifacts.load(out_dir, "bento")


def bento_tag(name: str, version: str, digest: str) -> str:
    """`<name>:<version>-<first 12 hex digits of the model's digest>` within BentoML's rules for tags: lower case, 63
    characters a part, a letter or digit at either end."""
    short = digest.removeprefix("sha256:")[:12]
    fitted = re.sub(r"[^a-z0-9]+$", "", name.lower()[:63])
    return f"{fitted}:{version}-{short}"


def _check_lineage(inputs: Mapping[str, Artifact]) -> None:
    """A registration names the model and the certificate that it was made from; they must be the ones given here."""
    registered = inputs["registration"].manifest.inputs
    for kind in ("model", "certificate"):
        found, given = registered.get(kind), inputs[kind].digest
        if found != given:
            raise ArtifactError(f"the registration is of the {kind} {found}, not of {given}; register it first")


def _collect(inputs: Mapping[str, Artifact], folder: Path) -> None:
    """The Bento's `model` folder: the files that serving reads, and where each came from."""
    folder.mkdir()
    for kind, names in _FILES.items():
        for name in names:
            shutil.copyfile(inputs[kind].path / name, folder / name)
    artifacts.write_json(folder / "provenance.json", {kind: _lineage(inputs[kind]) for kind in _FILES})


def _lineage(artifact: Artifact) -> dict[str, Any]:
    """What a manifest's digest is taken over: no time or revision, so that equal content packages to equal bytes."""
    return artifact.manifest.model_dump(mode="json", include=_LINEAGE)


def _build(scratch: Path, tag: str, archive: Path) -> None:
    # A process of its own, see `serving.bento`; run where the source is, so that it finds the packages of this one.
    root = Path(gapgate.__file__).parent.parent
    command = [sys.executable, "-m", "serving.bento", str(scratch.resolve() / "model"), tag, str(archive.resolve())]
    environment = os.environ | {"TMPDIR": str(scratch.resolve())}
    built = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if built.returncode == 0:
        return
    reason = next(iter(built.stderr.strip().splitlines()[-1:]), f"exit code {built.returncode}")
    if "No space left on device" in reason:
        raise StorageError(f"cannot write {archive}: the disk is full; free space or choose another folder")
    raise ArtifactError(f"BentoML could not build {tag}: {reason}")


def describe(bento: Artifact) -> str:
    """A line for the terminal."""
    facts = bento.read_json("package.json")
    return f"{facts['tag']}, {facts['size_bytes'] / 2**20:.1f} MB"
