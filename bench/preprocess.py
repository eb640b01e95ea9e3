"""Preprocessing of JPEG class folders against torchvision's ImageFolder, and its memory as the data set grows.

    python -m bench.preprocess [--quick] [--images 10000] [--rounds 3] [--workers 2] [--memory-images 10000 100000]

Speed: `preprocess` (from folder to Splits files: decode, content hash, resize, split, write) against ImageFolder
→ Resize → CenterCrop → PILToTensor → DataLoader with batches of 256, consumed to the end. Each runs in a process of its
own on the same photo-like files of 80 to 400 px with the same number of workers; the clock starts after the imports and
includes the start of the workers. Rounds alternate; the ratio is of medians. Target: at least 1.0 at both sizes.
ImageFolder's batches stay in memory, so ours go to /dev/shm where there is one: the disk is not what is compared.

Memory: `preprocess` on small images with two workers, every 20 ms the sum over its processes of RssAnon (what they hold
themselves) and of VmRSS − RssFile (that and shared memory). Pages of `images.npy` are the system's cache, not held.
Target: the peaks at 10,000 and at 100,000 images differ by at most 10 %.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapgate.process.cpu_quota import available_cpus

SIZES_PX = (64, 224)
BATCH_SIZE = 256
NUM_CLASSES = 10
SAMPLE_INTERVAL_S = 0.02


def main(argv: list[str] | None = None) -> int:
    """Measure speed and memory, or be one measured child (`--child`)."""
    options = _options(argv)
    if options.child:
        name, folder, out_dir, size_px = options.child
        seconds = {"gapgate": _ours, "ImageFolder": _theirs}[name](
            Path(folder), Path(out_dir), int(size_px), options.workers
        )
        print(seconds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        speed = _speed(Path(folder), options.images, options.rounds, options.workers)
        memory = _memory(Path(folder), options.memory_images)
    print(json.dumps({"processors": available_cpus(), "workers": options.workers, "speed": speed, "memory": memory}))
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="files of the speed comparison; 0 skips it")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the speed comparison")
    parser.add_argument("--workers", type=int, default=available_cpus())
    parser.add_argument("--memory-images", type=int, nargs="*", default=[10_000, 100_000], help="none skips it")
    parser.add_argument("--quick", action="store_true", help="2,500 files, one round; memory at 3,000 and 10,000")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.quick:
        options.images, options.rounds, options.memory_images = 2500, 1, [3000, 10_000]
    return options


def _speed(root: Path, num_images: int, rounds: int, workers: int) -> dict[str, float]:
    """Ratio of images/s at each size; above 1 preprocess is faster."""
    if not num_images:
        return {}
    folder = root / "photos"
    _write_jpegs(folder, num_images, sides_px=(80, 400))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as out:
        ratios = _ratios(folder, Path(out, "splits"), num_images, rounds, workers)
    for size, ratio in ratios.items():
        print(f"ratio imagefolder {size}: {ratio:.2f} (target: at least 1.0)")
    return ratios


def _ratios(folder: Path, out_dir: Path, num_images: int, rounds: int, workers: int) -> dict[str, float]:
    ratios = {}
    for size_px in SIZES_PX:
        seconds: dict[str, list[float]] = {"gapgate": [], "ImageFolder": []}
        for number in range(rounds):
            for name, times in seconds.items():
                times.append(_run_child(name, folder, out_dir, size_px, workers))
                rate = num_images / times[-1]
                print(f"{size_px} px, round {number + 1}: {name:11} {rate:6.0f} images/s", flush=True)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        ratios[f"{size_px}px"] = round(medians["ImageFolder"] / medians["gapgate"], 3)
    return ratios


def _memory(root: Path, counts: list[int]) -> dict[str, float]:
    """Peak memory in MB at each number of images, and the ratio of the last to the first."""
    peaks: list[tuple[float, float]] = []
    for count in counts:
        folder = root / f"small-{count}"
        _write_jpegs(folder, count, sides_px=(24, 40))
        peaks.append(_peak_mb(_child("gapgate", folder, root / "out", 32, 2)))
        print(f"{count:,} images: peak anonymous {peaks[-1][0]:.1f} MB, RSS - file {peaks[-1][1]:.1f} MB", flush=True)
        shutil.rmtree(folder)
        shutil.rmtree(root / "out")
    if not peaks:
        return {}
    ratio = peaks[-1][0] / peaks[0][0]
    print(f"ratio memory {counts[-1]:,} / {counts[0]:,} images: {ratio:.3f} (target: 0.9 to 1.1)")
    return {"peak_mb_first": peaks[0][0], "peak_mb_last": peaks[-1][0], "ratio": round(ratio, 4)}


def _child(name: str, folder: Path, out_dir: Path, size_px: int, workers: int) -> subprocess.Popen[str]:
    shutil.rmtree(out_dir, ignore_errors=True)
    out_dir.mkdir()
    arguments = ["--child", name, str(folder), str(out_dir), str(size_px), "--workers", str(workers)]
    # Compiled modules, as in any installation, even where this shell forbids writing them.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(out_dir.parent / "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.Popen(
        [sys.executable, "-m", "bench.preprocess", *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def _run_child(name: str, folder: Path, out_dir: Path, size_px: int, workers: int) -> float:
    child = _child(name, folder, out_dir, size_px, workers)
    output, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"{name} ended with {child.returncode}")
    return float(output)


def _ours(folder: Path, out_dir: Path, size_px: int, workers: int) -> float:
    from gapgate.data.preprocess import preprocess
    from gapgate.settings.sections import PreprocessSettings

    start = time.perf_counter()
    preprocess(PreprocessSettings(size_px=size_px, mode="rgb", num_workers=workers), folder, out_dir)
    return time.perf_counter() - start


def _theirs(folder: Path, out_dir: Path, size_px: int, workers: int) -> float:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

    start = time.perf_counter()
    images = ImageFolder(str(folder), Compose([Resize(size_px), CenterCrop(size_px), PILToTensor()]))
    count = sum(len(labels) for _, labels in DataLoader(images, BATCH_SIZE, num_workers=workers))
    assert count == len(images)
    return time.perf_counter() - start


def _peak_mb(child: subprocess.Popen[str]) -> tuple[float, float]:
    """(RssAnon, VmRSS - RssFile) of a process and its descendants, each at its highest sum."""
    anonymous = unfiled = 0
    while child.poll() is None:
        statuses = [_status_kb(pid) for pid in _descendants(child.pid)]
        anonymous = max(anonymous, sum(status.get("RssAnon", 0) for status in statuses))
        unfiled = max(unfiled, sum(status.get("VmRSS", 0) - status.get("RssFile", 0) for status in statuses))
        time.sleep(SAMPLE_INTERVAL_S)
    if child.returncode:
        raise SystemExit(f"preprocess ended with {child.returncode}")
    return round(anonymous / 1024, 1), round(unfiled / 1024, 1)


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _descendants(int(child))


def _status_kb(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if "kB" in value}


def _write_jpegs(folder: Path, count: int, sides_px: tuple[int, int]) -> None:
    """Class folders of JPEGs at the quality of cameras, each a random cut of one of a few photo-like pictures."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(_photo_like(rng, 2 * sides_px[1])) for _ in range(16)]
    for label in range(NUM_CLASSES):
        (folder / f"class-{label}").mkdir(parents=True)
    for number in range(count):
        width, height = rng.integers(*sides_px, size=2, endpoint=True).tolist()
        picture = pictures[number % len(pictures)]
        left, top = int(rng.integers(picture.width - width)), int(rng.integers(picture.height - height))
        cut = picture.crop((left, top, left + width, top + height))
        cut.save(folder / f"class-{number % NUM_CLASSES}" / f"{number:06d}.jpg", quality=90)


def _photo_like(rng: np.random.Generator, side_px: int) -> NDArray[np.uint8]:
    """(side, side, 3): octaves of smooth noise whose amplitude falls with frequency, as in natural images (Field 1987),
    with a few hard edges."""
    total = np.zeros((side_px, side_px, 3))
    cells = 2
    while cells <= side_px:
        octave = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        smooth = octave.resize((side_px, side_px), Image.Resampling.BICUBIC)
        total += (np.asarray(smooth) - 127.5) * (2 / cells) ** 0.8
        cells *= 2
    for _ in range(12):
        left, top = rng.integers(0, side_px, 2)
        width, height = rng.integers(side_px // 16, side_px // 4, 2)
        total[top : top + height, left : left + width] += rng.normal(0, 50, 3)
    return np.clip(total + 127.5, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
