"""The index of training images: built on real digits, searched against scikit-learn's exact search."""

import json
import shutil
from dataclasses import replace
from io import BytesIO

import numpy as np
import onnx
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from gapgate.errors import ArtifactError
from gapgate.onnx import embedding_index_build
from gapgate.onnx.embedding_index import EmbeddingIndex, Neighbour
from gapgate.onnx.embedding_index_build import _usual_distance, build_index
from gapgate.onnx.inner_layers_export import open_inner_layers
from tests.gapgate.onnx_models import digits, fit_cnn, write_linear, write_splits

NAMES = [str(digit) for digit in range(10)]
NUM_TRAIN = 1200
SHORT, LONG = 8, 16
"""Filters whose embeddings are of 128 and of 256 numbers."""


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Digits in an order in which training rows are not the first ones."""
    images, labels = digits()
    made = write_splits(tmp_path_factory.mktemp("data") / "splits", images, labels, NAMES, (NUM_TRAIN, 147))
    np.save(made.path / "train.npy", np.arange(NUM_TRAIN) + 300)
    return made


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    images, labels = digits()
    for num_filters in (SHORT, LONG):
        fit_cnn(folder / f"{num_filters}.onnx", images[300:1500], labels[300:1500], num_filters)
    return {num_filters: open_inner_layers(onnx.load(folder / f"{num_filters}.onnx")) for num_filters in (SHORT, LONG)}


@pytest.fixture(scope="module", params=[SHORT, LONG], ids=["as they are", "projected"])
def case(request, tmp_path_factory, splits, layers):
    folder = tmp_path_factory.mktemp("index") / "similar"
    assert build_index(splits, layers[request.param], folder, max_images=5000, thumbnail_px=64) == NUM_TRAIN
    return folder, layers[request.param]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_every_training_image_is_its_own_nearest(case, splits):
    index, layers = EmbeddingIndex.open(case[0]), case[1]
    assert len(index) == NUM_TRAIN
    rows = splits.rows("train")
    for row, embedding in enumerate(layers.embeddings(splits.images[rows[:50]])):
        (nearest,) = index.search(embedding, 1)
        assert nearest == Neighbour(row, f"image {rows[row]}", int(splits.labels[rows[row]]), nearest.distance)
        assert 0 <= nearest.distance < 1e-6


def test_the_search_finds_what_an_exhaustive_search_finds(case, splits):
    index, layers = EmbeddingIndex.open(case[0]), case[1]
    queries = layers.embeddings(splits.images[:40])
    wanted = queries if index.projection is None else (queries - index.projection.mean) @ index.projection.components
    exhaustive = NearestNeighbors(n_neighbors=10, algorithm="brute", metric="cosine")
    distances, rows = exhaustive.fit(index.embeddings.astype(np.float64)).kneighbors(wanted.astype(np.float64))
    for query, expected_distances, expected_rows in zip(queries, distances, rows, strict=True):
        found = index.search(query, 10)
        assert [neighbour.row for neighbour in found] == expected_rows.tolist()
        np.testing.assert_allclose([neighbour.distance for neighbour in found], expected_distances, rtol=0, atol=1e-6)


def test_similar_images_are_mostly_of_one_class(case, splits):
    index, layers = EmbeddingIndex.open(case[0]), case[1]
    queries = layers.embeddings(splits.images[:300])
    same = [index.search(query, 1)[0].label == label for query, label in zip(queries, splits.labels, strict=False)]
    assert np.mean(same) > 0.9


def test_short_embeddings_are_stored_as_they_are_and_long_ones_as_128_components(splits, layers, case):
    index = EmbeddingIndex.open(case[0])
    assert index.embeddings.shape == (NUM_TRAIN, 128)
    assert index.embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(index.embeddings, axis=1), 1, atol=1e-6)
    if index.projection is None:
        expected = unit(case[1].embeddings(splits.images[splits.rows("train")]))
        np.testing.assert_allclose(index.embeddings, expected, atol=1e-6)
    else:
        assert case[1].embedding_size == 256
        components = index.projection.components
        np.testing.assert_allclose(components.T @ components, np.eye(128), atol=1e-4)


def test_equal_distances_are_in_the_order_of_rows(case):
    index, layers = EmbeddingIndex.open(case[0]), case[1]
    twins = np.array(index.embeddings)
    twins[[3, 77, 500, 1199]] = twins[10]
    index = replace(index, embeddings=twins)
    found = index.search(layers.embeddings(digits()[0][310:311])[0], 5)
    assert [neighbour.row for neighbour in found] == [3, 10, 77, 500, 1199]
    assert len({neighbour.distance for neighbour in found}) == 1
    assert [neighbour.row for neighbour in index.search(layers.embeddings(digits()[0][310:311])[0], 2)] == [3, 10]


class Rounded(np.ndarray):
    """Vectors whose product differs in the last bits, the lower ones first, as BLAS may round it."""

    def __matmul__(self, query):
        exact = np.asarray(self) @ query
        return exact + np.linspace(-2e-7, 2e-7, len(exact), dtype=np.float32)


def test_the_rounding_of_a_product_decides_no_tie(case):
    index, layers = EmbeddingIndex.open(case[0]), case[1]
    twins = np.array(index.embeddings)
    twins[[3, 77, 500, 1199]] = twins[10]
    found = replace(index, embeddings=twins.view(Rounded)).search(layers.embeddings(digits()[0][310:311])[0], 2)
    assert [neighbour.row for neighbour in found] == [3, 10]


@pytest.mark.parametrize(("k", "count"), [(0, 0), (1, 1), (NUM_TRAIN, NUM_TRAIN), (NUM_TRAIN + 1, NUM_TRAIN)])
def test_never_more_neighbours_than_images(case, k, count):
    embedding = case[1].embeddings(digits()[0][:1])[0]
    assert len(EmbeddingIndex.open(case[0]).search(embedding, k)) == count


def test_an_embedding_of_zeros_is_at_right_angles_to_all(splits, layers, tmp_path):
    build_index(splits, layers[SHORT], tmp_path / "similar", max_images=20, thumbnail_px=64)
    found = EmbeddingIndex.open(tmp_path / "similar").search(np.zeros(128, np.float32), 3)
    assert [(neighbour.row, neighbour.distance) for neighbour in found] == [(0, 1), (1, 1), (2, 1)]


def test_a_sample_is_of_training_images_with_each_class_in_proportion(splits, layers, tmp_path):
    assert build_index(splits, layers[LONG], tmp_path / "similar", max_images=240, thumbnail_px=64) == 240
    index = EmbeddingIndex.open(tmp_path / "similar")
    rows = [int(id.removeprefix("image ")) for id in index.ids]
    assert rows == sorted(rows)
    assert set(rows) <= set(splits.rows("train").tolist())
    assert index.labels.tolist() == splits.labels[rows].tolist()
    shares = np.bincount(splits.labels[splits.rows("train")]) / NUM_TRAIN
    np.testing.assert_allclose(np.bincount(index.labels), 240 * shares, atol=1)


def test_embeddings_that_do_not_fit_into_memory_at_once_are_those_that_do(splits, layers, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_index_build, "_FIT_NUMBERS", 1)  # the components are fitted on 256 images
    monkeypatch.setattr(embedding_index_build, "_BLOCK_ROWS", 500)
    build_index(splits, layers[SHORT], tmp_path / "similar", max_images=5000, thumbnail_px=64)
    found = EmbeddingIndex.open(tmp_path / "similar").embeddings
    np.testing.assert_allclose(found, unit(layers[SHORT].embeddings(splits.images[splits.rows("train")])), atol=1e-6)


def test_a_sample_leaves_no_class_out(layers, tmp_path):
    images, labels = digits()
    skewed = np.r_[np.flatnonzero(labels != 4), np.flatnonzero(labels == 4)[:2]]
    splits = write_splits(tmp_path / "splits", images[skewed], labels[skewed], NAMES, (len(skewed), 0))
    build_index(splits, layers[SHORT], tmp_path / "similar", max_images=30, thumbnail_px=64)
    assert np.bincount(EmbeddingIndex.open(tmp_path / "similar").labels).min() == 1


def test_fewer_images_than_components_are_projected_onto_their_own_number(splits, layers, tmp_path):
    build_index(splits, layers[LONG], tmp_path / "similar", max_images=50, thumbnail_px=64)
    index = EmbeddingIndex.open(tmp_path / "similar")
    assert index.embeddings.shape == (50, 50)
    assert np.isfinite(index.embeddings).all()


def test_a_small_image_keeps_its_size_and_its_look(case, splits):
    index = EmbeddingIndex.open(case[0])
    for row, image in enumerate(splits.images[splits.rows("train")[:20]]):
        with Image.open(BytesIO(index.thumbnail(row)), formats=["JPEG"]) as thumbnail:
            assert thumbnail.mode == "L"
            difference = np.asarray(thumbnail, float) - image[:, :, 0]
            assert np.sqrt((difference**2).mean()) < 12


def test_a_large_image_is_shrunk_in_colour_and_equal_images_are_no_trouble(tmp_path):
    images = np.zeros((4, 40, 80, 3), np.uint8)
    images[:, :, :40] = (250, 20, 20)
    write_linear(tmp_path / "model.onnx", np.ones((40 * 80 * 3, 2)), np.zeros(2), (40, 80, 3))
    splits = write_splits(tmp_path / "splits", images, np.zeros(4, np.int32), ["a", "b"], (4, 0))
    build_index(
        splits, open_inner_layers(onnx.load(tmp_path / "model.onnx")), tmp_path / "s", max_images=9, thumbnail_px=20
    )
    with Image.open(BytesIO(EmbeddingIndex.open(tmp_path / "s").thumbnail(3))) as thumbnail:
        assert thumbnail.size == (20, 10)
        np.testing.assert_allclose(thumbnail.getpixel((4, 5)), (250, 20, 20), atol=8)
    assert np.isfinite(EmbeddingIndex.open(tmp_path / "s").embeddings).all()


def test_built_twice_the_files_are_the_same(case, splits, layers, tmp_path):
    folder, built_with = case
    build_index(splits, built_with, tmp_path / "again", max_images=5000, thumbnail_px=64)
    names = {path.name for path in folder.iterdir()}
    assert names - {"projection.npy"} == {
        *("embeddings.npy", "labels.npy", "ids.json", "thumbnails.bin", "offsets.npy", "usual.json")
    }
    assert ("projection.npy" in names) == (built_with is layers[LONG])
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("name", ["embeddings.npy", "labels.npy", "offsets.npy"])
def test_a_file_of_one_image_less_is_refused(case, tmp_path, name):
    shutil.copytree(case[0], tmp_path / "similar")
    np.save(tmp_path / "similar" / name, np.load(tmp_path / "similar" / name)[:-1])
    with pytest.raises(ArtifactError, match="different numbers of images"):
        EmbeddingIndex.open(tmp_path / "similar")


def test_an_incomplete_index_is_refused(case, tmp_path):
    shutil.copytree(case[0], tmp_path / "similar")
    (tmp_path / "similar/ids.json").write_text(json.dumps(["one"]))
    with pytest.raises(ArtifactError, match="different numbers of images"):
        EmbeddingIndex.open(tmp_path / "similar")
    (tmp_path / "similar/offsets.npy").unlink()
    with pytest.raises(ArtifactError, match=r"offsets\.npy is missing"):
        EmbeddingIndex.open(tmp_path / "similar")


def test_the_usual_distance_is_that_of_99_in_100_training_images_to_their_nearest_other_one(case):
    index = EmbeddingIndex.open(case[0])
    vectors = np.asarray(index.embeddings, np.float64)
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -1)
    nearest = 1 - similarities.max(axis=1)
    assert index.usual_distance == pytest.approx(np.quantile(nearest, 0.99), abs=1e-4)
    assert np.mean(nearest > index.usual_distance) == pytest.approx(0.01, abs=0.002)


def test_digits_are_within_the_usual_distance_and_noise_plain_grays_and_inverted_digits_are_not(case, splits):
    index, layers = EmbeddingIndex.open(case[0]), case[1]
    size = splits.images.shape[1]
    noise = np.random.default_rng(0).integers(0, 256, (100, size, size, 1), np.uint8)
    grays = np.full((16, size, size, 1), np.arange(0, 256, 16, np.uint8)[:, None, None, None], np.uint8)
    unseen = np.asarray(splits.images[splits.rows("test")[:100]])
    shares = {}
    for name, images in (("digits", unseen), ("noise", noise), ("grays", grays), ("inverted", 255 - unseen)):
        distances = [index.search(embedding, 1)[0].distance for embedding in layers.embeddings(images)]
        shares[name] = np.mean(np.array(distances) > index.usual_distance)
    assert shares["digits"] <= 0.1
    assert min(shares["noise"], shares["grays"], shares["inverted"]) >= 0.5, shares


def test_an_index_of_one_image_or_of_an_older_package_knows_no_usual_distance(splits, layers, tmp_path):
    build_index(splits, layers[SHORT], tmp_path / "old", max_images=20, thumbnail_px=64)
    (tmp_path / "old" / "usual.json").unlink()
    assert EmbeddingIndex.open(tmp_path / "old").usual_distance is None
    assert _usual_distance(np.ones((1, 4), np.float32), np.zeros(1, np.int32)) is None
