"""Archives from elsewhere: what is unpacked from them, and what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gapgate import package
from gapgate.errors import ArtifactError
from serving.archive import unpack_model
from tests.serving.registry_server import pack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed folder."""
    made = tmp_path_factory.mktemp("sealed")
    (made / "golden").mkdir()
    (made / "model.onnx").write_bytes(np.random.default_rng(0).bytes(100_000))
    (made / "golden" / "golden.json").write_text("[]\n")
    package.seal(made)
    return made


def member(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"x") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    made.size = len(data) if kind == tarfile.REGTYPE else 0
    return made


def test_only_the_model_is_unpacked(folder: Path, tmp_path: Path) -> None:
    archive = pack(folder, tmp_path, lambda tar: tar.addfile(member("src/serving/app.py"), io.BytesIO(b"x")))
    unpacked = unpack_model(archive, tmp_path / "model")
    assert package.verify(unpacked) == package.verify(folder)
    assert not list(tmp_path.rglob("app.py"))


@pytest.mark.parametrize(
    "hostile",
    [
        member("src/model/../../../escaped"),
        member("../escaped"),
        member("/escaped"),
        member("src/model/link", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member("src/model/link", kind=tarfile.LNKTYPE, link="/etc/passwd"),
        member("src/model/device", kind=tarfile.CHRTYPE),
        member("src/model/pipe", kind=tarfile.FIFOTYPE),
        member("src/model/model.onnx"),
        member("src/model/model.onnx/inside"),
    ],
    ids=lambda item: f"{item.name} {item.type.decode()}",
)
def test_a_hostile_member_is_refused_and_nothing_is_written_outside(
    hostile: tarfile.TarInfo, folder: Path, tmp_path: Path
) -> None:
    archive = pack(folder, tmp_path / "in", lambda tar: tar.addfile(hostile, io.BytesIO(b"x")))
    with pytest.raises(ArtifactError, match=r"do not trust it|twice"):
        unpack_model(archive, tmp_path / "out" / "deep" / "model")
    assert not list(tmp_path.rglob("escaped"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused_before_it_fills_the_disk(
    folder: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "bomb.bento"
    size = 50_000_000
    with tarfile.open(archive, "w:xz", preset=0) as tar:
        zeros = member("src/model/zeros", data=b"")
        zeros.size = size
        tar.addfile(zeros, io.BytesIO(bytes(size)))
    assert archive.stat().st_size < 50_000
    with pytest.raises(ArtifactError, match="more than the limit of 1,000,000 bytes"):
        unpack_model(archive, tmp_path / "model", max_bytes=1_000_000)
    assert not list((tmp_path / "model").iterdir())


def test_any_changed_byte_of_an_archive_is_refused(folder: Path, tmp_path: Path) -> None:
    whole = pack(folder, tmp_path).read_bytes()
    edges = [*range(40), *range(len(whole) - 60, len(whole))]
    middle = np.random.default_rng(1).integers(0, len(whole), 100).tolist()
    changed = tmp_path / "changed.bento"
    for at in edges + middle:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        changed.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"is not a Bento \("):
            unpack_model(changed, tmp_path / "model")


def test_a_missing_a_cut_and_a_foreign_file_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        unpack_model(tmp_path / "none.bento", tmp_path / "model")
    whole = pack(folder, tmp_path).read_bytes()
    (tmp_path / "half.bento").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="is not a Bento"):
        unpack_model(tmp_path / "half.bento", tmp_path / "model")
    with tarfile.open(tmp_path / "other.bento", "w:xz") as tar:
        tar.add(folder, "elsewhere")
    with pytest.raises(ArtifactError, match="it has no src/model"):
        unpack_model(tmp_path / "other.bento", tmp_path / "model")
