"""The package step, with BentoML's real build."""

from __future__ import annotations

import json
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components import package
from gapgate.artifacts import Artifact, load
from gapgate.errors import ArtifactError, GateError
from gapgate.tracking import NullTracker
from tests.serving import packaged

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bentos(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """Two Bentos of equal inputs, made at the same time in different folders under one home that must stay empty."""
    folders = [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second") / "deeper"]
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as threads:
        patch.setenv("HOME", str(home))
        made = list(threads.map(packaged.build, folders))
    assert list(home.iterdir()) == []
    return made


def pins(path: Path) -> set[str]:
    return set(re.findall(r"^[a-z0-9-]+==[^ \\]+", path.read_text(), re.MULTILINE))


def test_two_builds_of_the_same_inputs_are_byte_identical(bentos: list[Artifact]) -> None:
    first, second = bentos
    assert (first.path / "model.bento").read_bytes() == (second.path / "model.bento").read_bytes()
    assert first.digest == second.digest


def test_the_artifact_says_what_was_packaged(bentos: list[Artifact]) -> None:
    bento = bentos[0]
    model = load(bento.path.parent / "model", "model")
    registration = load(bento.path.parent / "registration", "registration").read_json("registration.json")
    assert bento.read_json("package.json") == {
        "tag": f"digits:3-{model.digest.removeprefix('sha256:')[:12]}",
        "size_bytes": (bento.path / "model.bento").stat().st_size,
        "model": {"name": "digits", "version": "3"},
        "receipt": registration["receipt"],
    }
    assert bento.manifest.inputs["model"] == model.digest


def test_nothing_but_the_artifact_is_left(bentos: list[Artifact]) -> None:
    names = {path.name for path in bentos[0].path.parent.iterdir()}
    assert names == {"model", "certificate", "registration", "bento"}


def test_the_bento_holds_the_model_its_evidence_and_the_source_that_serves_it(bentos: list[Artifact]) -> None:
    root = bentos[0].path.parent
    with tarfile.open(bentos[0].path / "model.bento") as archive:
        files = {member.name for member in archive if member.isfile()}
        for kind, name in [
            ("model", "model.onnx"),
            ("model", "transform.json"),
            ("model", "architecture.json"),
            ("certificate", "certificate.json"),
            ("registration", "receipt.json"),
            ("registration", "registration.json"),
        ]:
            stored = archive.extractfile(f"src/model/{name}")
            assert stored is not None
            assert stored.read() == (root / kind / name).read_bytes()
    source = {name for name in files if name.startswith("src/") and not name.startswith("src/model/")}
    assert {name.split("/")[1] for name in source} == {"gapgate", "serving", "bentofile.yaml"}
    assert not {"src/gapgate/settings.py", "src/serving/bento.py"} & source
    assert "src/model/provenance.json" in files


def test_the_provenance_leads_from_the_bento_to_the_digests_of_what_it_is_made_of(bentos: list[Artifact]) -> None:
    with tarfile.open(bentos[0].path / "model.bento") as archive:
        stored = archive.extractfile("src/model/provenance.json")
        assert stored is not None
        provenance = json.load(stored)
    assert {kind: lineage["digest"] for kind, lineage in provenance.items()} == bentos[0].manifest.inputs
    assert provenance["registration"]["inputs"]["model"] == provenance["model"]["digest"]


def test_the_environment_is_pinned_as_the_projects_own_and_holds_no_training_package(
    bentos: list[Artifact], tmp_path: Path
) -> None:
    with tarfile.open(bentos[0].path / "model.bento") as archive:
        archive.extract("env/python/requirements.txt", tmp_path, filter="data")
    requirements = tmp_path / "env" / "python" / "requirements.txt"
    assert requirements.read_bytes() == (ROOT / "serving" / "requirements.lock").read_bytes()
    pinned = pins(requirements)
    assert pinned <= pins(ROOT / "requirements.lock")
    names = {pin.split("==")[0] for pin in pinned}
    assert {"bentoml", "onnxruntime", "numpy", "pillow", "pydantic", "uvloop", "httptools"} <= names
    assert names.isdisjoint({"torch", "torchvision", "mlflow", "kfp", "dvc", "onnx", "scikit-learn", "matplotlib"})


@pytest.mark.parametrize("verdict", ["fail", "undecided"])
def test_a_model_that_did_not_pass_is_refused_and_nothing_is_written(tmp_path: Path, verdict: str) -> None:
    given = packaged.inputs(tmp_path, verdict=verdict)
    with pytest.raises(GateError, match=f"verdict is {verdict}"):
        package.run(None, given, tmp_path / "bento", NullTracker())
    assert not (tmp_path / "bento").exists()


def test_a_registration_of_another_model_is_refused(tmp_path: Path) -> None:
    given = packaged.inputs(tmp_path / "a")
    other = packaged.inputs(tmp_path / "b", verdict="fail")
    with pytest.raises(ArtifactError, match="registration is of the certificate"):
        package.run(None, given | {"registration": other["registration"]}, tmp_path / "bento", NullTracker())


def test_a_model_that_bentoml_cannot_package_is_reported_in_one_line(tmp_path: Path) -> None:
    given = packaged.inputs(tmp_path, name="not a tag")
    with pytest.raises(ArtifactError, match=r"BentoML could not build .*not a valid BentoML tag") as caught:
        package.run(None, given, tmp_path / "bento", NullTracker())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bento").exists()


@pytest.mark.parametrize("name", ["gapgate", "My.Model_2", "Ends-with-dots..", "x" * 100, "y" * 62 + "-z"])
def test_every_model_name_makes_a_tag_that_bentoml_takes(name: str) -> None:
    left, _, right = package.bento_tag(name, "12", "sha256:" + "0123456789abcdef" * 4).partition(":")
    for part in (left, right):
        assert re.fullmatch(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?", part)
        assert len(part) <= 63
    assert right == "12-0123456789ab"
