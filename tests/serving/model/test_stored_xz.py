"""Files of `StoredXz`, read by liblzma and by the xz tool."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.model.stored_xz import StoredXz


def stored(*parts: bytes) -> bytes:
    file = BytesIO()
    writer = StoredXz(file)
    for part in parts:
        assert writer.write(part) == len(part)
    writer.close()
    return file.getvalue()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 65_535, 65_536, 65_537, 131_072, 3_000_001])
def test_liblzma_reads_back_what_was_written(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert lzma.decompress(stored(data), lzma.FORMAT_XZ) == data


@given(st.lists(st.integers(0, 100_000), max_size=8))
def test_the_bytes_do_not_depend_on_how_they_were_handed_over(sizes: list[int]) -> None:
    data = np.random.default_rng(0).bytes(sum(sizes))
    stream = BytesIO(data)
    assert stored(*(stream.read(size) for size in sizes)) == stored(data)


def test_a_changed_byte_is_found() -> None:
    whole = bytearray(stored(bytes(1_000)))
    whole[500] ^= 1
    with pytest.raises(lzma.LZMAError):
        lzma.decompress(bytes(whole))


@pytest.mark.skipif(shutil.which("xz") is None, reason="the xz tool is not installed")
def test_the_xz_tool_accepts_the_file_and_lists_its_sizes(tmp_path: Path) -> None:
    (tmp_path / "a.xz").write_bytes(stored(bytes(200_000)))
    subprocess.run(["xz", "--test", tmp_path / "a.xz"], check=True)
    listing = subprocess.run(["xz", "--robot", "--list", tmp_path / "a.xz"], check=True, capture_output=True, text=True)
    assert "200000" in listing.stdout
