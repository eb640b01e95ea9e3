import json
from pathlib import Path

import pytest

from gapgate.artifacts import digest_of
from gapgate.errors import ArtifactError
from gapgate.evidence.sealed.seal import seal, verify

FILES = {
    "model.onnx": bytes(range(256)),
    "golden/palette.png": b"\x89PNG",
    "similar/labels.npy": b"labels",
    "empty": b"",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal(folder)
    return folder


def test_a_sealed_package_verifies_to_the_digest_of_its_files(package: Path) -> None:
    stated = json.loads((package / "package.json").read_text())
    assert set(stated["files"]) == set(FILES)
    digest = stated.pop("digest")
    assert verify(package) == digest == digest_of(stated)


def test_equal_files_have_equal_seals_and_sealing_again_changes_nothing(package: Path) -> None:
    first = (package / "package.json").read_bytes()
    seal(package)
    assert (package / "package.json").read_bytes() == first


@pytest.mark.parametrize("name", ["model.onnx", "golden/palette.png", "similar/labels.npy", "package.json"])
def test_any_changed_byte_of_any_file_is_refused_with_its_name(package: Path, name: str) -> None:
    original = (package / name).read_bytes()
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1
        (package / name).write_bytes(bytes(changed))
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            verify(package)
    (package / name).write_bytes(original)
    verify(package)


@pytest.mark.parametrize("name", [*FILES, "package.json"])
def test_a_missing_file_is_refused_with_its_name(package: Path, name: str) -> None:
    (package / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name} is missing"):
        verify(package)


@pytest.mark.parametrize("name", ["similar/embeddings.npy", ".hidden", "golden/deeper/package.json"])
def test_a_file_put_in_afterwards_is_refused_with_its_name(package: Path, name: str) -> None:
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_bytes(b"more")
    with pytest.raises(ArtifactError, match=rf"{name} is not part of the package"):
        verify(package)


def test_a_link_to_nowhere_is_refused(package: Path) -> None:
    (package / "link").symlink_to("nowhere")
    with pytest.raises(ArtifactError, match="link is not part of the package"):
        verify(package)


def test_the_same_content_written_otherwise_is_refused(package: Path) -> None:
    path = package / "package.json"
    text = path.read_text()
    for other in (
        text + "\n",
        text.rstrip(),
        json.dumps(json.loads(text)),
        text.replace("{", '{"schema_version": 1,', 1),
    ):
        path.write_text(other)
        with pytest.raises(ArtifactError, match=r"package\.json"):
            verify(package)


def test_a_file_list_without_its_own_digest_is_refused(package: Path) -> None:
    """As one who changes a model and its line in the list, but not the digest that was published."""
    path = package / "package.json"
    stated = json.loads(path.read_text())
    del stated["files"]["empty"]
    (package / "empty").unlink()
    path.write_text(json.dumps(stated, sort_keys=True, indent=2) + "\n")
    with pytest.raises(ArtifactError, match=r"package\.json was changed"):
        verify(package)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"schema_version": 1, "files": {}}', b"1" * 10_000]
)
def test_what_is_no_seal_is_refused_in_one_line(package: Path, content: bytes) -> None:
    (package / "package.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"package\.json is not the seal") as caught:
        verify(package)
    assert "\n" not in str(caught.value)


def test_a_seal_of_another_schema_is_refused_as_that(package: Path) -> None:
    path = package / "package.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ArtifactError, match="schema version 2, this is 1"):
        verify(package)
