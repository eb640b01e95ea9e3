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
_LITTER_SUFFIXES = ("@synoeastream", "@synoresource")


def is_hidden(name: str) -> bool:
    """True for a hidden file or folder, or one that a system leaves in people's folders (`Thumbs.db`, `@eaDir`)."""
    lower = name.lower()
    return lower.startswith(".") or lower in _LITTER or lower.endswith(_LITTER_SUFFIXES)
