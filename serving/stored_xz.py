"""Writing a valid `.xz` file without compressing.

BentoML reads a `.bento` as a tar in xz, and weights do not compress: of 100 MB of them xz's fastest preset left 92 MB
after 20 s, and took 16 s to unpack at each start of a server. Stored, both are a copy. The bytes do not depend on the
version of liblzma either. Follows The .xz File Format, version 1.2.1 (https://tukaani.org/xz/xz-file-format.txt), and
the LZMA2 chunks that liblzma writes for data that do not compress.
"""

from __future__ import annotations

from io import RawIOBase
from typing import Any, BinaryIO
from zlib import crc32

_FLAGS = b"\x00\x01"  # the check of each block is a CRC32
_CHUNK_BYTES = 2**16
_FIRST_CHUNK, _NEXT_CHUNK, _END_OF_CHUNKS = b"\x01", b"\x02", b"\x00"


class StoredXz(RawIOBase):
    """A writer of one block; `close` completes the stream and leaves `file` open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = bytearray()
        self._crc = 0
        self._size = 0
        self._block_bytes = 0
        file.write(b"\xfd7zXZ\x00" + _FLAGS + _crc32(_FLAGS))
        # Header size / 4 - 1, flags (one filter, no sizes), filter LZMA2, 1 byte of properties: a dictionary of 4 KiB.
        header = b"\x02\x00\x21\x01\x00" + bytes(3)
        self._write_block(header + _crc32(header))

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """Add bytes to the block."""
        self._crc = crc32(data, self._crc)
        self._buffer += data
        whole = len(self._buffer) // _CHUNK_BYTES * _CHUNK_BYTES
        self._write_chunks(bytes(self._buffer[:whole]))
        del self._buffer[:whole]
        return len(data)

    def close(self) -> None:
        """Write the last chunk, the block's check, the index and the footer; a second call does nothing."""
        if self.closed:
            return
        super().close()
        self._write_chunks(bytes(self._buffer))
        self._write_block(_END_OF_CHUNKS)
        self._file.write(_padding(self._block_bytes) + self._crc.to_bytes(4, "little"))
        index = b"\x00" + _varint(1) + _varint(self._block_bytes + 4) + _varint(self._size)
        index += _padding(len(index))
        index += _crc32(index)
        backward = (len(index) // 4 - 1).to_bytes(4, "little") + _FLAGS
        self._file.write(index + _crc32(backward) + backward + b"YZ")

    def _write_chunks(self, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK_BYTES):
            chunk = data[start : start + _CHUNK_BYTES]
            control = _NEXT_CHUNK if self._size else _FIRST_CHUNK
            self._write_block(control + (len(chunk) - 1).to_bytes(2, "big") + chunk)
            self._size += len(chunk)

    def _write_block(self, data: bytes) -> None:
        self._file.write(data)
        self._block_bytes += len(data)


def _crc32(data: bytes) -> bytes:
    return crc32(data).to_bytes(4, "little")


def _padding(size: int) -> bytes:
    """Zeros up to the next multiple of four bytes."""
    return bytes(-size % 4)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
