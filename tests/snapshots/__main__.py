"""Writes the snapshots anew, after a change that is meant: `python -m tests.snapshots` from the repository's root."""

from tests.snapshots.surfaces import FOLDER, SURFACES

for name, make in SURFACES.items():
    (FOLDER / name).write_text(make())
    print(f"tests/snapshots/{name} is as the code is now; `git diff` shows what changed")
