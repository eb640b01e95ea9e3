"""Inputs of the serving benchmark: the package that is served, and pictures of Fashion-MNIST."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench import environments, fashion_mnist
from bench.newest_bento import newest_bento
from bench.serve.rivals.model import Model

FOLDER = environments.OUT / "serve"
BLOCK_BYTES = 512
"""The unit of `st_blocks` in a file's status (POSIX)."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, as file and as tensor, and the class that the model gives it."""

    png: bytes
    pixels: NDArray[np.uint8]
    """(H, W, C)"""
    expected: str


@dataclass(frozen=True, slots=True)
class Package:
    """The model that is served, in the three forms that servers read."""

    model_folder: Path
    bento: Path
    """The `.bento` archive."""
    bento_folder: Path
    """The same, unpacked."""


def open_package(path: Path | None) -> Package:
    """A `.bento` archive, or a folder with the package's files, of which a Bento is built; None: the newest run's."""
    path = path or newest_bento("--package")
    FOLDER.mkdir(parents=True, exist_ok=True)
    archive = path
    if path.is_dir():
        model_folder = next((each for each in (path, path / "src/model") if (each / "model.onnx").is_file()), None)
        if model_folder is None:
            raise SystemExit(f"--package {path} has no model.onnx; name a .bento file or a folder with one")
        archive = FOLDER / "model.bento"
        build = [sys.executable, "-m", "serving.bento", model_folder.resolve(), "bench:1", archive]
        built = subprocess.run(build, cwd=environments.ROOT, capture_output=True, text=True)
        if built.returncode:
            raise SystemExit(f"{path} makes no Bento:\n{built.stderr}")
    elif not path.is_file():
        raise SystemExit(f"--package {path} is missing; `gapgate run` makes one")
    bento_folder = FOLDER / "bento"
    shutil.rmtree(bento_folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(bento_folder, filter="data")
    return Package(bento_folder / "src/model", archive.resolve(), bento_folder)


def read_pictures(folder: Path, number: int, model: Model) -> list[Picture]:
    """The first test images, as the model takes them."""
    return [_picture(image, model) for image in fashion_mnist.images(folder, "test", number)]


def _picture(image: NDArray[np.uint8], model: Model) -> Picture:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    pixels = model.decode(file.getvalue())
    return Picture(file.getvalue(), pixels, model.answer(pixels)["class"])


def environment_mb(package: Package) -> tuple[float, float]:
    """Megabytes on disk of what the Bento's requirements install: without bytecode, and with it as in its image."""
    folder = FOLDER / "environment"
    environments.create(folder, "--compile-bytecode", "-r", package.bento_folder / "env/python/requirements.txt")
    blocks = {path: path.lstat().st_blocks for path in folder.rglob("*") if not path.is_dir()}
    bytecode = sum(number for path, number in blocks.items() if path.suffix == ".pyc")
    shutil.rmtree(folder)
    total = sum(blocks.values())
    return (total - bytecode) * BLOCK_BYTES / 1e6, total * BLOCK_BYTES / 1e6
