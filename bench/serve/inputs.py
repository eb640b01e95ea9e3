"""What `bench.serve` serves and sends: the package, and pictures of Fashion-MNIST."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from bench.serve.contestants import FOLDER, Package, Picture
from bench.serve.rivals.model import Model
from bench.train.contestant import ROOT, uv

IMAGES = "t10k-images-idx3-ubyte.gz"
BLOCK_BYTES = 512
"""Of `st_blocks` (POSIX stat)."""


def open_package(path: Path | None) -> Package:
    """A `.bento` archive, or a folder with the package's files, of which a Bento is built; None: the newest run's."""
    path = path or _newest_bento()
    FOLDER.mkdir(parents=True, exist_ok=True)
    archive = path
    if path.is_dir():
        model_folder = next((each for each in (path, path / "src/model") if (each / "model.onnx").is_file()), None)
        if model_folder is None:
            raise SystemExit(f"--package {path} has no model.onnx; name a .bento file or a folder with one")
        archive = FOLDER / "model.bento"
        build = [sys.executable, "-m", "serving.bento", model_folder.resolve(), "bench:1", archive]
        built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
        if built.returncode:
            raise SystemExit(f"{path} makes no Bento:\n{built.stderr}")
    elif not path.is_file():
        raise SystemExit(f"--package {path} is missing; `gapgate run` makes one")
    bento_folder = FOLDER / "bento"
    shutil.rmtree(bento_folder, ignore_errors=True)
    with tarfile.open(archive, "r:xz") as tar:
        tar.extractall(bento_folder, filter="data")
    return Package(bento_folder / "src/model", archive.resolve(), bento_folder)


def _newest_bento() -> Path:
    runs = Path(os.environ.get("GAPGATE_HOME") or ".gapgate", "runs")
    if not (found := sorted(runs.glob("*/model.bento"))):
        raise SystemExit(f"there is no .bento in {runs}; see --help for how to make one, and name it with --package")
    return found[-1]


def read_pictures(folder: Path, number: int, model: Model) -> list[Picture]:
    """The first test images, as the model takes them."""
    with gzip.open(folder / IMAGES) as file:
        images = np.frombuffer(file.read(16 + number * 28 * 28), np.uint8)[16:].reshape(number, 28, 28)
    return [_picture(image, model) for image in images]


def _picture(image: np.ndarray, model: Model) -> Picture:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    pixels = model.decode(file.getvalue())
    return Picture(file.getvalue(), pixels, model.answer(pixels)["class"])


def environment_mb(package: Package) -> tuple[float, float]:
    """Megabytes on disk of what the Bento's requirements install: without bytecode, and with it as in its image."""
    folder = FOLDER / "environment"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    requirements = package.bento_folder / "env/python/requirements.txt"
    install: Sequence[str | Path] = ["--compile-bytecode", "--python", folder / "bin/python", "-r", requirements]
    subprocess.run([uv(), "venv", "--quiet", "--clear", "--python", version, folder], check=True)
    subprocess.run([uv(), "pip", "install", "--quiet", *install], check=True)
    blocks = {path: path.lstat().st_blocks for path in folder.rglob("*") if not path.is_dir()}
    bytecode = sum(number for path, number in blocks.items() if path.suffix == ".pyc")
    shutil.rmtree(folder)
    total = sum(blocks.values())
    return (total - bytecode) * BLOCK_BYTES / 1e6, total * BLOCK_BYTES / 1e6
