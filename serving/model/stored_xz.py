"""A writer of valid `.xz` files that does not compress.

BentoML reads a `.bento` as a tar in xz, and weights do not compress: xz's fastest preset turned 100 MB of them into
92 MB in 20 s, and unpacking took 16 s at each start of a server. Stored data is only copied, and its bytes do not
depend on the version of liblzma. Section numbers in comments are those of The .xz File Format, version 1.2.1
(https://tukaani.org/xz/xz-file-format.txt). The LZMA2 chunks are those that liblzma writes for data that do not
compress.
"""

from __future__ import annotations

from io import RawIOBase
from typing import Any, BinaryIO
from zlib import crc32

_FLAGS = b"\x00\x01"  # the check of each block is a CRC32
_CHUNK_BYTES = 2**16  # the most that an uncompressed LZMA2 chunk can hold: its size field has 16 bits
# Control bytes of LZMA2 for an uncompressed chunk that resets the dictionary, as the first one must, for one that does
# not, and for the end.
_FIRST_CHUNK, _NEXT_CHUNK, _END_OF_CHUNKS = b"\x01", b"\x02", b"\x00"


class StoredXz(RawIOBase):
    """A file-like writer of an xz stream of one block; `close` completes the stream and leaves `file` open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = bytearray()
        self._crc = 0
        self._size = 0
        self._block_bytes = 0
        # Section 2.1.1, the stream header: magic bytes, flags, CRC32 of the flags.
        file.write(b"\xfd7zXZ\x00" + _FLAGS + _crc32(_FLAGS))
        # Section 3.1, the block header: its size / 4 - 1 (2: 12 bytes with the CRC32), flags (one filter, no sizes),
        # filter LZMA2, 1 byte of properties (0: a dictionary of 4 KiB), padding.
        header = b"\x02\x00\x21\x01\x00" + bytes(3)
        self._write_block(header + _crc32(header))

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """Add bytes to the block; the rest that does not fill a chunk waits in the buffer."""
        # Chunks are cut at multiples of their size, however the caller cuts its writes: equal content is equal bytes.
        self._crc = crc32(data, self._crc)
        self._buffer += data
        whole = len(self._buffer) // _CHUNK_BYTES * _CHUNK_BYTES
        self._write_chunks(bytes(self._buffer[:whole]))
        del self._buffer[:whole]
        return len(data)

    def close(self) -> None:
        """Write the last chunk, the checksum of the block, the index and the footer; a second call does nothing."""
        if self.closed:
            return
        super().close()
        self._write_chunks(bytes(self._buffer))
        self._write_block(_END_OF_CHUNKS)
        # Section 3.3 and 3.4: padding to a multiple of 4 bytes, then the CRC32 of the uncompressed data.
        self._file.write(_padding(self._block_bytes) + self._crc.to_bytes(4, "little"))
        # Section 4, the index: a zero byte, 1 record, its unpadded size (header, chunks and 4 bytes of CRC32, without
        # the padding) and its uncompressed size; padding; CRC32.
        index = b"\x00" + _varint(1) + _varint(self._block_bytes + 4) + _varint(self._size)
        index += _padding(len(index))
        index += _crc32(index)
        # Section 2.1.2, the footer: CRC32 of the two fields behind it, size of the index / 4 - 1, flags, magic bytes.
        backward = (len(index) // 4 - 1).to_bytes(4, "little") + _FLAGS
        self._file.write(index + _crc32(backward) + backward + b"YZ")

    def _write_chunks(self, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK_BYTES):
            chunk = data[start : start + _CHUNK_BYTES]
            control = _NEXT_CHUNK if self._size else _FIRST_CHUNK
            # The size less one, big-endian: LZMA2 differs from the fields of xz here.
            self._write_block(control + (len(chunk) - 1).to_bytes(2, "big") + chunk)
            self._size += len(chunk)

    def _write_block(self, data: bytes) -> None:
        self._file.write(data)
        self._block_bytes += len(data)


def _crc32(data: bytes) -> bytes:
    return crc32(data).to_bytes(4, "little")


def _padding(size: int) -> bytes:
    """Return the zeros that bring `size` to a multiple of four bytes."""
    return bytes(-size % 4)


def _varint(value: int) -> bytes:
    """Encode an integer (section 1.2): seven bits in each byte, the lowest first; the top bit is 1 if more follow."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
