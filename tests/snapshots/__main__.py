"""Writes the snapshots anew, after a change that is meant: `python -m tests.snapshots` from the repository's root."""

from tests.snapshots.surfaces import ROOT, SURFACES

for name, make in SURFACES.items():
    (ROOT / name).write_text(make())
    print(f"{name} is as the code is now; `git diff` shows what changed")
