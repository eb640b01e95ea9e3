"""Makes the golden artifacts of the present schema: `python tests/golden/make.py` from the root of the repository.

They are what one run of the real steps wrote, on 90 of scikit-learn's 8×8 digits with a network of 177 weights. Each
later version is held to reading what an earlier one stored, so **they are made once for each schema version, and not
again**: a change that cannot read them needs a new schema version, and a new folder beside this one.

Two runs of the script with the same versions on the same machine give the same bytes: the seeds are fixed, and so are
the identifiers that MLflow draws, the time in each manifest and the code revision. Another machine's floating point may
differ in the last bits, which is one more reason to keep the files and not the script alone.

The evaluation and the certificate are kept without their HTML reports and figures, which have a megabyte. The Bento's
archive is stored uncompressed by its maker; xz makes 170 of its 610 kB, most of them the hashes of pinned packages.
"""

from __future__ import annotations

import json
import lzma
import os
import random
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from unittest.mock import patch

import numpy as np
from sklearn.datasets import load_digits

import gapgate
from components.catalog import STEPS
from components.execute import execute
from components.platform.run_context import DRAINED_VARIABLE
from gapgate.artifacts import MANIFEST, RUN_VARIABLE, SCHEMA_VERSION, Manifest, read_json, record_of, write_json
from pipelines.kubeflow.cluster_settings import ClusterSettings
from pipelines.kubeflow.compiler import compile_pipeline

ROOT = Path(__file__).parents[2]
CREATED_AT = "2026-01-01T00:00:00+00:00"
CLASS_IMAGES = 30
LEFT_OUT = ("report.html", "figures")
SETTINGS = {
    "ingest": {"source": "digits.npz"},
    "preprocess": {"stratify": True, "num_workers": 1, "test_fraction": 0.4},
    "augment": {"operations": [{"type": "translate", "max_fraction": 0.1}], "preview_images": 1},
    "train": {
        "architecture": [
            {"type": "conv", "filters": 3},
            {"type": "activation"},
            {"type": "pool", "size": 2},
            {"type": "flatten"},
            {"type": "dense"},
        ],
        "epochs": 30,
        "batch_size": 16,
        "learning_rate": 0.02,
        "accelerator": "cpu",
        "amp": "off",
        "num_threads": 1,
    },
    "evaluate": {"num_resamples": 1000, "worst_errors": 2},
    "gate": {"max_gap_points": 20.0, "min_test_accuracy": 0.7},
    "register": {"model_name": "golden"},
    "package": {"similar_images": 8, "thumbnail_px": 8},
}


def main() -> int:
    """Write the folder of the present schema version."""
    target = Path(__file__).parent / f"schema-{SCHEMA_VERSION}"
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ |= {
            "GAPGATE_HOME": f"{scratch}/home",
            "GAPGATE_CODE_REVISION": f"gapgate {gapgate.__version__}",
            "GAPGATE_STEP_IMAGE": "gapgate/step:golden",
            "GAPGATE_TRAIN_IMAGE": "gapgate/train:golden",
            "MLFLOW_TRACKING_URI": "",
            RUN_VARIABLE: "golden",
            DRAINED_VARIABLE: "1",
        }
        run_steps(Path("artifacts"))
        shutil.rmtree(target, ignore_errors=True)
        keep(Path("artifacts"), target)
        compile_pipeline(ClusterSettings.from_file(ROOT / "infra" / "pipeline.yaml"), target / "pipeline.yaml")
    return 0


def run_steps(folder: Path) -> None:
    """Run all steps in `folder`, where each artifact takes the name of its kind."""
    digits = load_digits(n_class=3)
    rows = np.concatenate([np.flatnonzero(digits.target == label)[:CLASS_IMAGES] for label in range(3)])
    np.savez("digits.npz", images=(digits.images[rows] * (255 / 16)).astype(np.uint8), labels=digits.target[rows])
    bits = random.Random(0)
    with patch("uuid.uuid4", lambda: uuid.UUID(int=bits.getrandbits(128), version=4)):
        for name, step in STEPS.items():
            inputs = {kind: str(folder / kind) for kind in step.inputs}
            execute(name, json.dumps(SETTINGS[name]), inputs, str(folder / step.output))


def keep(made: Path, target: Path) -> None:
    """Copy the artifacts without the time of their making and what is large."""
    shutil.copytree(made, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for manifest in target.glob(f"*/{MANIFEST}"):
        dated = Manifest.model_validate(read_json(manifest) | {"created_at": CREATED_AT})
        write_json(manifest, dated.model_copy(update={"record": record_of(dated)}).model_dump(mode="json"))
    archive = target / "bento" / "model.bento"
    (archive.parent / "model.bento.xz").write_bytes(lzma.compress(archive.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
    archive.unlink()


if __name__ == "__main__":
    sys.exit(main())
