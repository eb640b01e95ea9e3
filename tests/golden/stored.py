"""Where the golden artifacts are, and their Bento as it was before it was made smaller to be kept."""

from __future__ import annotations

import lzma
from pathlib import Path

from gapgate.evidence.sealed.archive import unpack_model

SCHEMA_1 = Path(__file__).parent / "schema-1"


def restore_bento(packed: Path, target: Path) -> Path:
    """Write the archive that `packed` holds to `target`."""
    target.write_bytes(lzma.decompress(packed.read_bytes()))
    return target


def unpacked_package(scratch: Path) -> Path:
    """The package in the Bento of schema 1: the model, and all that a server reads with it."""
    archive = restore_bento(SCHEMA_1 / "bento" / "model.bento.xz", scratch / "model.bento")
    return unpack_model(archive, scratch / "package")
