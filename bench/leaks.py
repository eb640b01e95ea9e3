"""Near-duplicates and labels in doubt, on data whose answers people have given.

    python -m bench.leaks near --images 100000
    python -m bench.leaks plain DATA
    python -m bench.leaks cifar CIFAR.npz DATA/cifair_duplicates_cifar10.csv
    python -m bench.leaks labels DATA

`near`: time and memory of `near_pairs` on random textures. `plain`: images of MNIST's and Fashion-MNIST's test splits
and of folders of photos that are in a pair, where hardly any should be. `cifar`: hand-judged near-duplicates of
CIFAR-10 test images in train (ciFAIR, Barz and Denzler 2020) that are found, and other test images flagged; the file
holds `train` and `test`, (n, 32, 32, 3) uint8 in the order of the original batches. `labels`: MNIST's test labels
that people did not confirm, and 5 % swapped labels of Fashion-MNIST, by out-of-fold probabilities of a support vector
machine on the 60 first principal components of the pixels, made probabilities by a logistic regression.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from gapgate.data.leaks.near_duplicates import near_pairs
from gapgate.data.sources import open_source
from gapgate.data.transform import Transform
from gapgate.evidence.measures import suspects


def main(argv: list[str] | None = None) -> int:
    """Run one of the measurements and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["near", "plain", "cifar", "labels"])
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args(argv)
    measure = {"near": lambda: near(options.images), "plain": plain, "cifar": cifar, "labels": labels}[options.what]
    print(json.dumps(measure(*options.paths)))
    return 0


def near(num_images: int) -> dict[str, Any]:
    """Measure time and memory on textures, of which every hundredth has a brighter copy."""
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 200, (num_images, 8, 8, 3), dtype=np.uint8)
    images = rough.repeat(4, 1).repeat(4, 2) + rng.integers(0, 40, (num_images, 32, 32, 1), dtype=np.uint8)
    images[1::100] = images[::100] + 10
    start = time.perf_counter()
    pairs = near_pairs(images, np.arange(num_images))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images": num_images, "seconds": seconds, "pairs": len(pairs), "made": len(images[1::100]), "peak_mb": peak}


def plain(data: Path) -> dict[str, Any]:
    """Count the images of plain sets that are in a pair."""
    found = {}
    for name in ("mnist", "fashion-mnist", "photos/signs", "photos/trash"):
        images = _images(data / name)
        found[name] = {"images": len(images), "in_pairs": len(np.unique(near_pairs(images, np.arange(len(images)))))}
    return found


def cifar(arrays: Path, listed: Path) -> dict[str, Any]:
    """Count the judged near-duplicates that are found, and the other test images that are flagged."""
    splits = np.load(arrays)
    images = np.concatenate([splits["test"], splits["train"]])
    num_test = len(splits["test"])
    start = time.perf_counter()
    pairs = near_pairs(images, np.arange(len(images)))
    seconds = time.perf_counter() - start
    across = pairs[(pairs[:, 0] < num_test) & (pairs[:, 1] >= num_test)]
    flagged = set(across[:, 0].tolist())
    with listed.open(newline="") as file:
        judged = [(int(line["TestID"]), line["Judgment"]) for line in csv.DictReader(file)]
    of_list = {test for test, judgment in judged if judgment == "1"}
    others = flagged - {test for test, _ in judged}
    return {
        "found": len(of_list & flagged),
        "listed": len(of_list),
        "others": len(others),
        "of_test": num_test,
        "s": seconds,
    }


def labels(data: Path) -> dict[str, Any]:
    """Find doubtful labels of MNIST's test split, and swapped ones of Fashion-MNIST's."""
    pixels, given = _images(data / "mnist"), _labels(data / "mnist")
    order = suspects.rank(given, _out_of_fold(pixels, given)).order
    judged = json.loads((data / "mnist/label_errors_mturk.json").read_text())
    wrong = [one["id"] for one in judged if one["mturk"]["given"] < 3]
    clothes, right = _images(data / "fashion-mnist"), _labels(data / "fashion-mnist")
    rng = np.random.default_rng(0)
    swapped = rng.choice(len(right), len(right) // 20, replace=False)
    mixed = right.copy()
    mixed[swapped] = (mixed[swapped] + rng.integers(1, 10, len(swapped))) % 10
    first = suspects.rank(mixed, _out_of_fold(clothes, mixed)).order[: len(right) // 10]
    return {
        "mnist": {"wrong": len(wrong), "in_first_100": int(np.isin(wrong, order[:100]).sum())},
        "fashion": {"swapped": len(swapped), "in_first_tenth": int(np.isin(swapped, first).sum())},
    }


def _out_of_fold(images: NDArray[np.uint8], given: NDArray[np.int64]) -> NDArray[np.float64]:
    # A support vector machine ranks like a small CNN here and takes a minute; its margins become probabilities by a
    # logistic regression on them, with the same folds.
    values = images.reshape(len(images), -1) / 255.0
    machine = make_pipeline(PCA(60, random_state=0), StandardScaler(), SVC(C=5, gamma=0.006, break_ties=True))
    margins = cross_val_predict(machine, values, given, cv=3, method="decision_function")
    found: NDArray[np.float64] = cross_val_predict(
        LogisticRegression(max_iter=500), margins, given, cv=3, method="predict_proba"
    )
    return found


def _source(folder: Path) -> Any:
    return open_source(folder, folder)


def _images(folder: Path) -> NDArray[np.uint8]:
    source = _source(folder)
    transform = Transform(size_px=64, mode="rgb") if "photos" in folder.parts else Transform(size_px=28, mode="gray")
    images = []
    for record in _measured(source):
        pixels = source.reader.read(record.locator, 50_000_000)
        of_file = isinstance(pixels, Image.Image)
        images.append(transform.apply_to_image(pixels) if of_file else transform.apply(pixels))
    return np.stack(images)


def _labels(folder: Path) -> NDArray[np.int64]:
    return np.array([record.label for record in _measured(_source(folder))])


def _measured(source: Any) -> Any:
    return (record for record in source.records() if record.split in ("", "test"))


if __name__ == "__main__":
    raise SystemExit(main())
