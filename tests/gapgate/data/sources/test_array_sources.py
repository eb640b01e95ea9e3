"""Array formats, from real bytes: IDX, CIFAR, NumPy and the built-in data sets."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest

from gapgate.data.sources import BUILTINS, write_builtin
from gapgate.data.sources.builtin import shapes
from gapgate.data.sources.known import FASHION_MNIST
from gapgate.errors import DataError
from gapgate.settings.sections import Reading

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1, 0, 1], np.uint8)


def pixels_of(source):
    reader = pickle.loads(pickle.dumps(source.reader))  # as a worker process gets it
    return [np.asarray(reader.read(record.locator, 1_000_000)) for record in source.records()]


def idx_bytes(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, images, labels, name="train", prefix="", compress=True):
    for what, array in ((f"images-idx{images.ndim}", images), ("labels-idx1", labels)):
        path = folder / f"{prefix}{name}-{what}-ubyte"
        if compress:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            path.write_bytes(idx_bytes(array))


# IDX


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(("prefix", "test"), [("", "t10k"), ("emnist-letters-", "test")])
def test_idx_files_are_read_under_their_usual_names(data, opened, compress, prefix, test):
    write_idx(data, IMAGES, LABELS, "train", prefix, compress)
    write_idx(data, IMAGES[:2], LABELS[:2], test, prefix, compress)
    source = opened()
    assert [record.id for record in source.records()][5:7] == ["train/000005", "test/000000"]
    assert [(record.label, record.split) for record in source.records()][5:7] == [(1, "train"), (0, "test")]
    np.testing.assert_array_equal(pixels_of(source), np.concatenate([IMAGES, IMAGES[:2]]))


def test_real_fashion_mnist_is_read(test_data, opened):
    source = opened(test_data / "fashion-mnist")
    records = list(source.records())
    assert len(records) == 70_000
    assert np.bincount([r.label for r in records if r.split == "test"]).tolist() == [1000] * 10
    with gzip.open(test_data / "fashion-mnist" / "t10k-images-idx3-ubyte.gz") as file:
        file.seek(16 + 784 * 9_999)
        last = np.frombuffer(file.read(784), np.uint8).reshape(28, 28)
    np.testing.assert_array_equal(source.reader.read(records[-1].locator, 1), last)


def test_classes_txt_names_the_labels(data, opened):
    write_idx(data, IMAGES, LABELS)
    (data / "classes.txt").write_text("shirt\nbag\n")
    assert opened().class_names == ("shirt", "bag")
    (data / "classes.txt").write_text("shirt\n")
    with pytest.raises(DataError, match="label 1 has no name: 1 classes are named"):
        opened()


def test_fashion_mnist_and_cifar_are_known_by_their_labels(fashion_subset, data, opened):
    assert opened(fashion_subset).class_names[:2] == ("T-shirt/top", "Trouser")
    labels = np.array([6, 9, 9, 4, 1, 1, 2, 7, 8, 3, 0, 5], np.int64)  # the first of CIFAR-10, and the classes left
    np.savez(data / "cifar10.npz", x_train=np.zeros((12, 32, 32, 3), np.uint8), y_train=labels[:, None])
    assert opened().class_names[6] == "frog"
    np.savez(data / "cifar10.npz", x_train=np.zeros((12, 32, 32, 3), np.uint8), y_train=np.sort(labels)[:, None])
    assert opened().class_names == tuple("0123456789")
    assert opened(fashion_subset, Reading(class_names=tuple("abcdefghij"))).class_names == tuple("abcdefghij")


def test_a_truncated_gzip_is_refused(data, opened):
    write_idx(data, RNG.integers(0, 256, (50, 28, 28), dtype=np.uint8), np.arange(50, dtype=np.uint8))
    path = data / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is truncated or corrupt; get it again"):
        opened()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\x00\x00\x0d\x03" + bytes(12),
            "starts with 00 00 0d 03, an IDX file of bytes in 3 dimensions with 00 00 08 03",
        ),
        (b"", "starts with nothing"),
        (idx_bytes(IMAGES)[:-1], "holds 119 bytes of values, its header says 120"),
        (idx_bytes(IMAGES) + b"x", "holds 121 bytes of values, its header says 120"),
        (idx_bytes(IMAGES[:5]), "has 6 labels for 5 images"),
        (idx_bytes(IMAGES[:0]), "is empty"),
    ],
)
@pytest.mark.parametrize("compress", [True, False])
def test_a_corrupt_idx_file_is_explained(data, opened, content, message, compress):
    write_idx(data, IMAGES, LABELS, compress=compress)
    path = data / ("train-images-idx3-ubyte" + (".gz" if compress else ""))
    path.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(DataError, match=message):
        opened()


@pytest.mark.parametrize("missing", ["images-idx3", "labels-idx1"])
def test_half_of_an_idx_pair_is_refused(data, opened, missing):
    write_idx(data, IMAGES, LABELS)
    (data / f"train-{missing}-ubyte.gz").unlink()
    with pytest.raises(DataError, match=f"has no {missing.split('-')[0]} file beside it"):
        opened()


def test_idx_files_of_two_data_sets_need_a_choice(data, opened):
    for prefix in ("emnist-letters-", "emnist-digits-"):
        write_idx(data, IMAGES, LABELS, prefix=prefix)
    with pytest.raises(DataError, match=r"2 data sets \(emnist-digits-, emnist-letters-\)"):
        opened()


# CIFAR


def cifar_bytes(images, *labels):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([*(column[:, None] for column in labels), planes], axis=1).astype(np.uint8).tobytes()


def test_cifar_10_batches_are_one_training_split(data, opened):
    images = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    folder = data / "cifar-10-batches-bin"
    folder.mkdir()
    for name, rows in (("data_batch_1", slice(0, 2)), ("data_batch_2", slice(2, 4)), ("test_batch", slice(4, 6))):
        (folder / f"{name}.bin").write_bytes(cifar_bytes(images[rows], LABELS[rows]))
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\n\n")
    for path in (folder, data):
        source = opened(path)
        assert source.class_names == ("airplane", "automobile")
        assert [record.id for record in source.records()] == [
            *(f"train/00000{n}" for n in range(4)),
            "test/000000",
            "test/000001",
        ]
        assert [record.label for record in source.records()] == LABELS.tolist()
        np.testing.assert_array_equal(pixels_of(source), images)


def test_cifar_100_has_its_fine_labels(data, opened):
    images = RNG.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for name in ("train", "test"):
        (data / f"{name}.bin").write_bytes(cifar_bytes(images, np.array([9, 9]), np.array([1, 0])))
    (data / "fine_label_names.txt").write_text("apple\naquarium_fish\n")
    source = opened()
    assert source.class_names == ("apple", "aquarium_fish")
    assert opened(data, Reading(class_names=("pomme", "poisson"))).class_names == ("pomme", "poisson")
    assert [record.label for record in source.records()] == [1, 0, 1, 0]
    np.testing.assert_array_equal(pixels_of(source)[:2], images)


def test_a_cifar_file_of_wrong_size_and_the_pickled_version_are_refused(data, opened):
    (data / "data_batch_1.bin").write_bytes(b"x" * 3000)
    with pytest.raises(DataError, match=r"has 3,000 bytes, no multiple of 3,073"):
        opened()
    (data / "data_batch_1").write_bytes(b"x")
    with pytest.raises(DataError, match="pickled version"):
        opened()


# NumPy


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")],
)
def test_an_archive_with_splits_is_read(data, opened, save, names):
    arrays = (IMAGES, LABELS[:, None].astype(np.int64), IMAGES[:2], LABELS[:2, None])
    save(data / "set.npz", **dict(zip(names, arrays, strict=True)))
    for path in (data, data / "set.npz"):
        source = opened(path)
        assert [(r.id, r.label, r.split) for r in source.records()][5:7] == [
            ("train/000005", 1, "train"),
            ("test/000000", 0, "test"),
        ]
        np.testing.assert_array_equal(pixels_of(source), np.concatenate([IMAGES, IMAGES[:2]]))


def test_one_set_of_arrays_may_have_groups_splits_and_names(data, opened):
    colour = RNG.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    np.savez(data / "a.npz", images=colour, labels=["x", "y", "x"], groups=[1, 1, 2], splits=["train", "train", "test"])
    source = opened()
    assert source.class_names == ("x", "y")
    assert [tuple(record)[:4] for record in source.records()] == [
        ("images/000000", 0, "train", "1"),
        ("images/000001", 1, "train", "1"),
        ("images/000002", 0, "test", "2"),
    ]
    np.testing.assert_array_equal(pixels_of(source), colour)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES, "labels": LABELS[:4]}, "4 labels for 6 images"),
        ({"images": IMAGES, "labels": LABELS, "groups": LABELS[:2]}, "2 groups for 6 images"),
        ({"images": IMAGES}, "has images and no labels"),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, "has the type float32; store pixels as uint8"),
        ({"images": IMAGES[0], "labels": LABELS}, "has the shape"),
        ({"images": np.asfortranarray(IMAGES), "labels": LABELS}, "Fortran order"),
        ({"images": IMAGES, "labels": LABELS.astype(float)}, "labels are float64"),
        ({"images": IMAGES, "labels": LABELS, "splits": ["train"] * 5 + ["spare"]}, "split 'spare' is unknown"),
        ({"pictures": IMAGES}, "name the arrays images and labels"),
    ],
)
def test_arrays_that_cannot_be_used_are_explained(data, opened, arrays, message):
    np.savez(data / "a.npz", **arrays)
    if "spare" not in message:  # of a row, which is named by its id
        message = rf"a\.npz.*{message}"
    with pytest.raises(DataError, match=message):
        list(opened().records())


def test_pickled_and_truncated_archives_are_refused(data, opened):
    np.savez(data / "a.npz", images=IMAGES, labels=np.array([{}] * 6, dtype=object))
    with pytest.raises(DataError, match="labels is no NumPy array of a plain type"):
        opened()
    (data / "a.npz").write_bytes((data / "a.npz").read_bytes()[:-40])
    with pytest.raises(DataError, match="is truncated or corrupt"):
        opened()


# Built in

SHA256 = {
    ("digits", "images.npy"): "a8f4d3508d3b8a0b09a2d6fb7b752541afd92225c3fc5c67271249f7098b39e6",
    ("digits", "labels.npy"): "0725b444040d95acb3387a1cff2f9f5a71f8395c2b24addc6fceae12717cf922",
    ("digits", "classes.txt"): "7427877c40fb0361401248f9c96abe6117396bc6ab16811b5b1706274c02443e",
    ("shapes", "images.npy"): "0440759f06525811fbb93f78d0db66baba86e95f86db61b5dfaefd933c9f245b",
    ("shapes", "labels.npy"): "7ed36a7fcc96297e2d55fe20b5359cd316d477dbc888a686bca9487c758a1e06",
    ("shapes", "classes.txt"): "93e5345f0b90df40e97f0326ff45e4af5650a010706dfafd2d8a8431bc69a5a3",
}


@pytest.mark.parametrize("name", BUILTINS)
def test_built_in_data_sets_are_the_same_bytes_everywhere(data, opened, name):
    write_builtin(name, data)
    for path in data.iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[name, path.name], path.name
    source = opened()
    assert len(list(source.records())) == {"digits": 1797, "shapes": 600}[name]
    assert len(source.class_names) == {"digits": 10, "shapes": 3}[name]


def test_another_seed_gives_other_shapes():
    (first, _), (second, _) = (shapes(images_per_class=2, size_px=32, seed=seed) for seed in (1, 2))
    assert first.shape == (6, 32, 32, 3)
    assert (first != second).mean() > 0.9


def test_an_unknown_built_in_is_refused(data):
    with pytest.raises(DataError, match="'flowers' is no built-in data set; take one of digits, shapes"):
        write_builtin("flowers", data)


def test_labels_of_a_column_for_each_class_are_named_with_the_remedy(data, opened):
    np.save(data / "images.npy", np.zeros((4, 8, 8), np.uint8))
    np.save(data / "labels.npy", np.eye(2, dtype=np.uint8)[[0, 1, 0, 1]])
    with pytest.raises(
        DataError, match=r"labels are an array of 4 × 2; store one value for each image, as argmax gives"
    ):
        opened()


def test_an_unpacked_idx_file_counts_before_the_packed_one_of_its_name(data, opened):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7), np.uint8)  # not square: height before width
    labels = np.array([[0, 1, 0], [1, 1, 0]], np.uint8)
    write_idx(data, images[0], labels[0], compress=True)
    assert [record.label for record in opened().records()] == [0, 1, 0]
    write_idx(data, images[1], labels[1], compress=False)
    source = opened()
    assert [record.label for record in source.records()] == [1, 1, 0]
    for record, expected in zip(source.records(), images[1], strict=True):
        np.testing.assert_array_equal(source.reader.read(record.locator, 100), expected)


def test_a_part_of_a_well_known_data_set_keeps_its_numbers(data, opened):
    # The first ten labels of Fashion-MNIST's training images; classes 1, 4, 6 and 8 are missing.
    labels = np.array([9, 0, 0, 3, 0, 2, 7, 2, 5, 5])
    for more, names in (([], ("0", "2", "3", "5", "7", "9")), ([1, 4, 6, 8], FASHION_MNIST)):
        given = np.concatenate([labels, np.array(more, int)])
        np.savez(data / "a.npz", images=np.zeros((len(given), 28, 28), np.uint8), labels=given)
        assert opened(data / "a.npz").class_names == names
