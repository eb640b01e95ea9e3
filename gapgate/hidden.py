"""Files and folders that are no part of what people keep in a folder."""

from __future__ import annotations

_LITTER = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"),
        *("__macosx", "__pycache__", "network trash folder", "temporary items"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "lost+found", "found.000"),
        # Synology, QNAP and NetApp.
        *("@eadir", "@tmp", "@sharebin", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot"),
    )
)
_HIDDEN_LITTER = (".ds_store", "._", ".localized", ".directory", ".nfs", ".fuse_hidden", ".spotlight-v100", ".trash")
"""Beginnings of the hidden files that macOS, KDE, NFS and FUSE make."""
_LITTER_SUFFIXES = ("@synoeastream", "@synoresource")


def is_hidden(name: str) -> bool:
    """True for a hidden file or folder, or one that a system leaves in people's folders (`Thumbs.db`, `@eaDir`)."""
    return name.startswith(".") or is_litter(name)


def is_litter(name: str) -> bool:
    """True for a file or folder that a system makes in people's folders, and makes again when it is gone."""
    lower = name.lower()
    return lower in _LITTER or lower.startswith(_HIDDEN_LITTER) or lower.endswith(_LITTER_SUFFIXES)
