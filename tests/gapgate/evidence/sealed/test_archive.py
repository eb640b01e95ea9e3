"""Archives from elsewhere: what is unpacked from them, and what is refused."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from gapgate.errors import ArtifactError
from gapgate.evidence.sealed import seal
from gapgate.evidence.sealed.archive import unpack_model
from tests.serving.registry_server import pack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed folder."""
    made = tmp_path_factory.mktemp("sealed")
    (made / "golden").mkdir()
    (made / "model.onnx").write_bytes(np.random.default_rng(0).bytes(100_000))
    (made / "golden" / "golden.json").write_text("[]\n")
    seal.seal(made)
    return made


def member(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"x") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    made.size = len(data) if kind == tarfile.REGTYPE else 0
    return made


def block(kind: bytes, data: bytes) -> bytes:
    """A header of `kind` and its content, as they lie in a tar."""
    made = tarfile.TarInfo("x")
    made.type, made.size = kind, len(data)
    return made.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


FILE = block(tarfile.REGTYPE, b"x")


def compressed(place: Path, *blocks: bytes) -> Path:
    """`place/hostile.bento` with nothing but `blocks`."""
    archive = place / "hostile.bento"
    with lzma.open(archive, "wb", preset=0) as file:
        for each in blocks:
            file.write(each)
    return archive


def test_only_the_model_is_unpacked(folder: Path, tmp_path: Path) -> None:
    archive = pack(folder, tmp_path, lambda tar: tar.addfile(member("src/serving/http/app.py"), io.BytesIO(b"x")))
    unpacked = unpack_model(archive, tmp_path / "model")
    assert seal.verify(unpacked) == seal.verify(folder)
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


@pytest.mark.parametrize("kept", ["plain with its digest", "compressed"])
def test_any_changed_byte_of_an_archive_is_refused(folder: Path, tmp_path: Path, kept: str) -> None:
    whole = pack(folder, tmp_path).read_bytes()
    sha256 = hashlib.sha256(whole).hexdigest()
    if kept == "compressed":
        whole, sha256 = lzma.compress(whole, preset=0), ""
    edges = [*range(40), *range(len(whole) - 60, len(whole))]
    middle = np.random.default_rng(1).integers(0, len(whole), 100).tolist()
    changed = tmp_path / "changed.bento"
    for at in edges + middle:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        changed.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"is not a Bento \(" if kept == "compressed" else "has the sha256"):
            unpack_model(changed, tmp_path / "model", sha256=sha256)


def test_an_archive_is_not_parsed_before_its_digest_holds(folder: Path, tmp_path: Path) -> None:
    hostile = pack(folder, tmp_path / "in", lambda tar: tar.addfile(member("../escaped"), io.BytesIO(b"x")))
    with pytest.raises(ArtifactError, match=f"not {'0' * 64} as it was registered"):
        unpack_model(hostile, tmp_path / "model", sha256="0" * 64)
    assert not (tmp_path / "model").exists()


def test_a_tar_in_xz_as_versions_before_0_3_have_it_is_read(folder: Path, tmp_path: Path) -> None:
    archive = pack(folder, tmp_path)
    archive.write_bytes(lzma.compress(archive.read_bytes()))
    assert seal.verify(unpack_model(archive, tmp_path / "model")) == seal.verify(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.bento"]


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


HEADERS = [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]


@pytest.mark.parametrize("before", [[], [FILE]], ids=["first", "later"])
@pytest.mark.parametrize("kind", HEADERS, ids=bytes.decode)
def test_a_giant_header_in_a_small_archive_is_refused_before_it_fills_the_memory(
    kind: bytes, before: list[bytes], tmp_path: Path
) -> None:
    archive = compressed(tmp_path, *before, block(kind, bytes(30_000_000)), FILE)
    assert archive.stat().st_size < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="holds a header of more than 16,384 bytes"):
            unpack_model(archive, tmp_path / "model")
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        # tarfile searches for digits in quadratic time: 6.5 s for these in Python 3.11.7, and hours for 2 MB.
        ([block(tarfile.XHDTYPE, b"1" * 60_000)], "a header of more than 16,384 bytes"),
        ([block(tarfile.XHDTYPE, b"")] * 2_000, "recursion"),
        ([block(tarfile.XHDTYPE, b"18 comment=harmless\n") + FILE] * 2_000, "more than 2,097,152 bytes of headers"),
        ([FILE] * 4_200, "more than 2,097,152 bytes of headers"),
        ([block(tarfile.XGLTYPE, b"15 size=1000000\n")], "hides the true size of 'x'; "),
        ([block(tarfile.XHDTYPE, b"22 GNU.sparse.map=0,1\n")], "hides the true size of 'x'; "),
        ([block(tarfile.GNUTYPE_SPARSE, b"x")], "hides the true size of 'x'; "),
    ],
    ids=["digits", "nested", "long headers", "many members", "for all", "sparse", "sparse of old"],
)
def test_a_header_that_costs_time_or_hides_a_size_is_refused(blocks: list[bytes], reason: str, tmp_path: Path) -> None:
    archive = compressed(tmp_path, *blocks, FILE, bytes(2 * tarfile.BLOCKSIZE))
    with pytest.raises(ArtifactError, match=reason):
        unpack_model(archive, tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("src/model/" + "a" * 5_000, "holds a name of 5,010 characters"),
        ("src/model/" + "a/" * 2_000 + "a", "more than 32 folders deep"),  # more than `shutil.rmtree` can remove
        ("/" + "a" * 5_000, "leads out of it"),
    ],
    ids=["long", "deep", "absolute"],
)
def test_a_name_too_long_or_too_deep_is_refused_in_few_words_and_leaves_nothing(
    name: str, reason: str, folder: Path, tmp_path: Path
) -> None:
    archive = pack(folder, tmp_path, lambda tar: tar.addfile(member(name), io.BytesIO(b"x")))
    with pytest.raises(ArtifactError, match=reason) as refusal:
        unpack_model(archive, tmp_path / "model")
    assert len(str(refusal.value)) < 300
    assert max(len(path.relative_to(tmp_path).parts) for path in tmp_path.rglob("*")) < 5


def with_more_at_the_end(whole: bytes) -> bytes:
    return whole + b"x"


def with_another_archive_at_the_end(whole: bytes) -> bytes:
    return whole + whole


def with_a_dictionary_of_512_mib(whole: bytes) -> bytes:
    header = whole[12:16] + b"\x22" + whole[17:20]
    return whole[:12] + header + crc32(header).to_bytes(4, "little") + whole[24:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_more_at_the_end, "something follows its end"),
        (with_another_archive_at_the_end, "something follows its end"),
        (with_a_dictionary_of_512_mib, "Memory usage limit exceeded"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_xz_with_more_than_one_archive_needs_is_refused(
    change: Callable[[bytes], bytes], reason: str, folder: Path, tmp_path: Path
) -> None:
    archive = pack(folder, tmp_path)
    archive.write_bytes(change(lzma.compress(archive.read_bytes(), preset=0)))
    with pytest.raises(ArtifactError, match=rf"is not a Bento \({reason}\)"):
        unpack_model(archive, tmp_path / "model")
