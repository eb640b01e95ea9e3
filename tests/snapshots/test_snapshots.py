"""The service's description, the compiled pipeline and the pages of the settings and of the Python API, held against
their snapshots: a change must be meant.

Clients are generated from the one, and a cluster keeps copies of the other. `python -m tests.snapshots` writes the
files anew; the commit then shows the change to whoever reviews it.
"""

from __future__ import annotations

from difflib import unified_diff

import pytest

from tests.snapshots.surfaces import REWRITE, ROOT, SURFACES

SHOWN_LINES = 60


@pytest.mark.parametrize("name", SURFACES)
def test_the_surface_is_as_its_snapshot(name: str) -> None:
    stored, present = (ROOT / name).read_text(), SURFACES[name]()
    if stored != present:
        difference = list(unified_diff(stored.splitlines(), present.splitlines(), "snapshot", "present", lineterm=""))
        left = f"\n... and {len(difference) - SHOWN_LINES} lines more" if len(difference) > SHOWN_LINES else ""
        shown = "\n".join(difference[:SHOWN_LINES])
        pytest.fail(f"{name} changed; if that is meant, run `{REWRITE}` and commit it:\n{shown}{left}", pytrace=False)


@pytest.mark.parametrize("name", SURFACES)
def test_a_snapshot_is_the_same_at_another_commit_and_version(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPGATE_CODE_REVISION", "0123456789abcdef")
    monkeypatch.setattr("gapgate.__version__", "99.0.0")
    monkeypatch.setattr("pipelines.container_images.__version__", "99.0.0")
    assert SURFACES[name]() == (ROOT / name).read_text()
