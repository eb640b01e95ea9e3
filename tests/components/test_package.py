"""The package step, with BentoML's real build."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components import package
from components.execute import make
from gapgate.artifacts import Artifact, digest_of, load, read_json
from gapgate.data.splits import Splits
from gapgate.data.transform import Transform
from gapgate.errors import ArtifactError, GateError
from gapgate.evidence.sealed.certificate import Verdict
from gapgate.evidence.sealed.golden import check_golden
from gapgate.evidence.sealed.seal import verify
from gapgate.onnx.classifier import Classifier
from gapgate.onnx.embedding_index import EmbeddingIndex
from gapgate.onnx.inner_layers import InnerLayers
from gapgate.settings.sections import PackageSettings, PreprocessSettings
from gapgate.tracking import NullTracker
from tests.serving import packaged

ROOT = Path(__file__).parents[2]
LINEAGE = {"dataset", "splits", "policy", "model", "evaluation", "certificate", "registration"}


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


def stored(bento: Artifact, name: str) -> bytes:
    """A file of the package in the archive."""
    with tarfile.open(bento.path / "model.bento") as archive:
        file = archive.extractfile(f"src/model/{name}")
        assert file is not None
        return file.read()


def stored_json(bento: Artifact, name: str) -> Any:
    return json.loads(stored(bento, name))


def unpacked(bento: Artifact, folder: Path) -> Path:
    """The package in the archive, as a folder."""
    with tarfile.open(bento.path / "model.bento") as archive:
        archive.extractall(folder, filter="data")
    return folder / "src" / "model"


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
        "package": stored_json(bento, "package.json")["digest"],
    }
    assert bento.manifest.inputs["model"] == model.digest


def test_nothing_but_the_artifact_is_left(bentos: list[Artifact]) -> None:
    names = {path.name for path in bentos[0].path.parent.iterdir()}
    assert names == {*LINEAGE, "bento"}


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
        assert stored(bentos[0], name) == (root / kind / name).read_bytes()
    source = {name for name in files if name.startswith("src/") and not name.startswith("src/model/")}
    assert {name.split("/")[1] for name in source} == {"gapgate", "serving", "bentofile.yaml"}
    assert not {"src/gapgate/settings/sections.py", "src/serving/bento.py"} & source
    assert {name.removeprefix("src/model/") for name in files if name.startswith("src/model/")} == {
        *("model.onnx", "transform.json", "architecture.json", "certificate.json", "receipt.json"),
        *("registration.json", "lineage.json", "inner_layers.json", "inner_layers.pb", "package.json"),
        *(f"golden/{name}" for name in ("golden.json", "palette.png", "alpha.png", "gray16.png", "odd.png")),
        *("golden/orientation.jpg", "golden/cmyk.jpg", "golden/picture.webp", "golden/display-p3.jpg"),
        *(f"similar/{name}.npy" for name in ("embeddings", "labels", "offsets")),
        *("similar/ids.json", "similar/thumbnails.bin", "similar/projection.npy", "similar/usual.json"),
    }


def test_the_package_in_the_archive_is_sealed_and_passes_its_golden_images(
    bentos: list[Artifact], tmp_path: Path
) -> None:
    folder = unpacked(bentos[0], tmp_path)
    assert verify(folder) == bentos[0].read_json("package.json")["package"]
    transform = Transform.from_file(folder / "transform.json")
    check_golden(folder, transform, Classifier.load(folder / "model.onnx"))
    position = len((folder / "model.onnx").read_bytes()) // 2
    changed = bytearray((folder / "model.onnx").read_bytes())
    changed[position] ^= 1
    (folder / "model.onnx").write_bytes(changed)
    with pytest.raises(ArtifactError, match=r"model\.onnx was changed"):
        verify(folder)


def test_the_lineage_leads_from_the_data_set_to_the_registration_and_every_digest_can_be_checked(
    bentos: list[Artifact],
) -> None:
    lineage = stored_json(bentos[0], "lineage.json")
    root = bentos[0].path.parent
    assert set(lineage) == LINEAGE
    for kind, entry in lineage.items():
        content = {name: value for name, value in entry.items() if name != "digest"}
        assert entry["digest"] == digest_of(content) == load(root / kind, kind).digest
        assert entry["inputs"] == {name: lineage[name]["digest"] for name in entry["inputs"]}
    assert lineage["splits"]["inputs"] == {"dataset": lineage["dataset"]["digest"]}
    receipt = stored_json(bentos[0], "receipt.json")
    assert receipt["artifacts"] == {kind: lineage[kind]["digest"] for kind in LINEAGE - {"registration"}}
    for kind, name in [("model", "model.onnx"), ("certificate", "certificate.json"), ("registration", "receipt.json")]:
        assert lineage[kind]["files"][name] == hashlib.sha256(stored(bentos[0], name)).hexdigest()


def test_the_index_finds_each_training_image_first_and_its_class_next(bentos: list[Artifact], tmp_path: Path) -> None:
    folder = unpacked(bentos[0], tmp_path)
    index = EmbeddingIndex.open(folder / "similar")
    splits = Splits.open(bentos[0].path.parent / "splits")
    rows = splits.rows("train")
    assert len(index) == len(rows) == packaged.TRAIN_IMAGES
    embeddings = InnerLayers.load(folder).embeddings(splits.images[rows])
    for position, embedding in enumerate(embeddings):
        first, second = index.search(embedding, 2)
        assert (first.row, first.distance) == (position, pytest.approx(0, abs=1e-5))
        assert first.label == second.label == splits.labels[rows[position]]


def test_no_training_image_leaves_where_the_setting_says_so(tmp_path: Path) -> None:
    with_index = packaged.folder(tmp_path / "with")
    without = packaged.folder(tmp_path / "without", similar_images=0)
    names = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in (with_index, without)]
    assert {path.parts[0] for path in names[0] - names[1]} == {"similar"}
    assert names[1] < names[0]
    assert verify(without) != verify(with_index)


def test_a_smaller_index_and_smaller_thumbnails_can_be_asked_for(tmp_path: Path) -> None:
    given = packaged.inputs(tmp_path)
    package.write(PackageSettings(similar_images=20, thumbnail_px=8), given, tmp_path / "package")
    index = EmbeddingIndex.open(tmp_path / "package" / "similar")
    assert len(index) == 20
    assert Image.open(BytesIO(index.thumbnail(19))).size == (8, 8)


def test_a_model_without_an_embedding_is_packaged_without_an_index(tmp_path: Path) -> None:
    """One that ends in a pooled convolution."""
    given = packaged.inputs(tmp_path, model=packaged.pooled_model())
    package.write(PackageSettings(), given, tmp_path / "package")
    assert not (tmp_path / "package" / "similar").exists()
    assert read_json(tmp_path / "package" / "inner_layers.json")["embedding"] is None
    verify(tmp_path / "package")


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
def test_a_model_that_did_not_pass_is_refused_and_nothing_is_written(tmp_path: Path, verdict: Verdict) -> None:
    given = packaged.inputs(tmp_path, verdict=verdict)
    with pytest.raises(GateError, match=f"verdict is {verdict}"):
        packaged.bento(given, tmp_path / "bento")
    assert not (tmp_path / "bento").exists()


def test_a_registration_of_another_model_is_refused(tmp_path: Path) -> None:
    given = packaged.inputs(tmp_path / "a")
    other = packaged.inputs(tmp_path / "b", verdict="fail")
    with pytest.raises(ArtifactError, match="registration is of the certificate"):
        packaged.bento(given | {"registration": other["registration"]}, tmp_path / "bento")


def test_splits_that_the_model_was_not_trained_on_are_refused(tmp_path: Path) -> None:
    """Their images would be shown as the similar ones."""
    given = packaged.inputs(tmp_path)
    settings = PreprocessSettings(evidence="holdout", stratify=True, num_workers=1, salt="other")
    dataset = {"dataset": load(tmp_path / "dataset", "dataset")}
    other, _ = make("preprocess", settings, dataset, tmp_path / "other", NullTracker())
    with pytest.raises(ArtifactError, match="the evaluation is of the splits"):
        packaged.bento(given | {"splits": other}, tmp_path / "bento")
    assert not (tmp_path / "bento").exists()


def test_a_registration_without_its_lineage_is_refused(tmp_path: Path) -> None:
    """As one of an earlier version of this project."""
    given = packaged.inputs(tmp_path)
    (tmp_path / "registration" / "lineage.json").unlink()
    with pytest.raises(ArtifactError, match="whose lineage is missing"):
        package.write(PackageSettings(), given, tmp_path / "package")


def test_a_lineage_that_was_changed_is_refused(tmp_path: Path) -> None:
    given = packaged.inputs(tmp_path)
    path = tmp_path / "registration" / "lineage.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ArtifactError, match="the lineage of the policy was changed"):
        package.write(PackageSettings(), given, tmp_path / "package")


def test_a_model_that_bentoml_cannot_package_is_reported_in_one_line(tmp_path: Path) -> None:
    given = packaged.inputs(tmp_path, name="not a tag")
    with pytest.raises(ArtifactError, match=r"BentoML could not build .*not a valid BentoML tag") as caught:
        packaged.bento(given, tmp_path / "bento")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bento").exists()


@pytest.mark.parametrize("name", ["gapgate", "My.Model_2", "Ends-with-dots..", "x" * 100, "y" * 62 + "-z"])
def test_every_model_name_makes_a_tag_that_bentoml_takes(name: str) -> None:
    left, _, right = package.bento_tag(name, "12", "sha256:" + "0123456789abcdef" * 4).partition(":")
    for part in (left, right):
        assert re.fullmatch(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?", part)
        assert len(part) <= 63
    assert right == "12-0123456789ab"
