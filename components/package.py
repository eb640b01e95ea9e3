"""package: Splits, Model, Evaluation, Certificate and Registration → a Bento that serves the model, without torch; and
the alias of its version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import gapgate
from components import promotion
from components.facts import Facts
from components.platform.registry.mlflow_registry import Registry, Version
from components.platform.run_context import RunContext
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.splits import Splits
from gapgate.data.transform import Transform
from gapgate.errors import ArtifactError, GateError, RegistryError, StorageError
from gapgate.evidence.sealed.golden import write_golden
from gapgate.evidence.sealed.package import Passed
from gapgate.evidence.sealed.seal import seal
from gapgate.onnx.classifier import Classifier
from gapgate.onnx.embedding_index_build import build_index
from gapgate.onnx.inner_layers import InnerLayers
from gapgate.onnx.inner_layers_export import write_inner_layers
from gapgate.settings.sections import PackageSettings
from gapgate.tracking import Tracker

ARCHIVE = "model.bento"
_FILES = {
    "model": ("model.onnx", "transform.json", "architecture.json"),
    "certificate": ("certificate.json",),
    "registration": ("registration.json", "receipt.json"),
}


def run(settings: PackageSettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Build a Bento of `inputs["model"]`, give it to its version in the registry, verify what the registry then has,
    and promote the version if it is the first or not worse than the champion.

    Raises:
        GateError: the certificate's verdict is not pass.
        ArtifactError: the inputs are not of one chain, such as a registration of another model; BentoML cannot build
            the Bento; or the package of this version or the champion's is damaged in the artifact store.
        RegistryError: the version is not in the registry, or the champion's package is not in the artifact store.
        StorageError: the disk is full.
        TrackingError: the registry does not answer; the step can be run again later.
    """
    # MLflow's import takes 2 s, as long as the process that builds the Bento.
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(Registry)
        facts = build(settings, inputs, folder)
        registry = opening.result()
    version = registry.find(facts["model"]["name"], facts["model"]["version"])
    # Beside the artifact, as in `build`.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as scratch:
        passed = _published(registry, version, folder / ARCHIVE, facts["package"], Path(scratch))
        decision = promotion.decide(registry, passed, version, inputs)
    if context := RunContext.current():
        if earlier := context.decision.get("known_from"):
            decision = promotion.present(version, earlier)
        context.record_decision(decision)
    alias = decision["alias"]
    return Facts(
        summary=f"{facts['tag']}, {facts['size_bytes'] / 2**20:.1f} MB, {alias or 'no alias'}: {decision['reason']}",
        tags={"bento.tag": facts["tag"], "package.digest": facts["package"], "model.alias": alias},
        files={"package.json": "package"},
    )


def build(settings: PackageSettings, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Build a Bento of `inputs["model"]`, with the evidence for it and the index of training images inside; returns the
    facts in `package.json`.

    Writes `model.bento`, which `bentoml import` reads, and `package.json`. Equal inputs give equal bytes.

    Raises:
        GateError, ArtifactError, StorageError: as in `run`.
    """
    verdict = inputs["certificate"].read_json("certificate.json")["verdict"]
    if verdict != "pass":
        raise GateError(f"the certificate's verdict is {verdict}; only a model that passed the gate is packaged")
    registration = inputs["registration"].read_json("registration.json")
    tag = bento_tag(registration["name"], registration["version"], inputs["model"].digest)
    # Beside the artifact, so that a Bento larger than /tmp can be built wherever the artifact fits.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as scratch:
        digest = write(settings, inputs, Path(scratch, "model"))
        _build(Path(scratch), tag, folder / ARCHIVE)
    facts = {
        "tag": tag,
        "size_bytes": (folder / ARCHIVE).stat().st_size,
        "model": {"name": registration["name"], "version": registration["version"]},
        "receipt": registration["receipt"],
        "package": digest,
    }
    artifacts.write_json(folder / "package.json", facts)
    return facts


def _published(registry: Registry, version: Version, archive: Path, digest: str, scratch: Path) -> Passed:
    """The package of a version as the registry has it, verified; without a whole one it gets `archive`."""
    if version.package:
        # Of an earlier try or run. Servers may have it: another one of the same model would make them load it anew.
        with suppress(ArtifactError, RegistryError):
            return registry.package(version, scratch)
    registry.publish(version, archive, digest)
    return registry.package(registry.find(version.name, version.version), scratch)


def write(settings: PackageSettings, inputs: Mapping[str, Artifact], folder: Path) -> str:
    """Write the package (the Bento's `model` folder, which is all that serving reads) and return its digest.

    Raises:
        ArtifactError: the inputs are not of one chain.
    """
    lineage = artifacts.lineage(inputs)
    folder.mkdir()
    for kind, names in _FILES.items():
        for name in names:
            shutil.copyfile(inputs[kind].path / name, folder / name)
    artifacts.write_json(folder / artifacts.LINEAGE, lineage)
    # From the copies in `folder`: the golden answers are those of the files that will be served.
    write_golden(folder, Transform.from_file(folder / "transform.json"), Classifier.load(folder / "model.onnx"))
    write_inner_layers(folder / "model.onnx", folder)
    layers = InnerLayers.load(folder)
    if settings.similar_images and layers.embedding_size:
        build_index(
            Splits.open(inputs["splits"].path),
            layers,
            folder / "similar",
            max_images=settings.similar_images,
            thumbnail_px=settings.thumbnail_px,
        )
    # Last: the seal is a digest over every file above.
    return seal(folder)


def bento_tag(name: str, version: str, digest: str) -> str:
    """`<name>:<version>-<first 12 hex digits of the model's digest>` within BentoML's rules for tags: lower case, 63
    characters a part, a letter or digit at either end."""
    short = digest.removeprefix("sha256:")[:12]
    fitted = re.sub(r"[^a-z0-9]+$", "", name.lower()[:63])
    return f"{fitted}:{version}-{short}"


def _build(scratch: Path, tag: str, archive: Path) -> None:
    # A process of its own, see `serving.bento`; run where the source is, so that it finds the packages of this one.
    root = Path(gapgate.__file__).parent.parent
    command = [sys.executable, "-m", "serving.bento", str(scratch.resolve() / "model"), tag, str(archive.resolve())]
    # BentoML's own temporary files stay inside `scratch` too, which is removed whole.
    environment = os.environ | {"TMPDIR": str(scratch.resolve())}
    built = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if built.returncode == 0:
        return
    # The last line of stderr has the reason; the lines before it are warnings and the traceback.
    reason = next(iter(built.stderr.strip().splitlines()[-1:]), f"exit code {built.returncode}")
    if "No space left on device" in reason:
        raise StorageError(f"cannot write {archive}: the disk is full; free space or choose another folder")
    raise ArtifactError(f"BentoML could not build {tag}: {reason}")
