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
_TOOL_FOLDERS = frozenset(
    (
        *(".git", ".dvc", ".gapgate", ".cache", ".venv", ".idea", ".vscode", ".ipynb_checkpoints", ".pytest_cache"),
        *(".thumbnails", ".thumbs", ".thumb", ".picasaoriginals", ".previews", ".snapshot", ".snapshots", ".tmp"),
    )
)
"""Hidden folders that programs make for themselves, some of them with copies of the images."""


def is_hidden_by_user(name: str) -> bool:
    """True for the name of a hidden folder that no program is known to make: people's own, as of a class `.net`."""
    return name.startswith(".") and not is_litter(name) and name.lower() not in _TOOL_FOLDERS


def is_hidden(name: str) -> bool:
    """True for a hidden file or folder, or one that a system leaves in people's folders (`Thumbs.db`, `@eaDir`)."""
    return name.startswith(".") or is_litter(name)


def is_litter(name: str) -> bool:
    """True for a file or folder that a system makes in people's folders, and makes again when it is gone."""
    lower = name.lower()
    return lower in _LITTER or lower.startswith(_HIDDEN_LITTER) or lower.endswith(_LITTER_SUFFIXES)
