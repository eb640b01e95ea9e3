"""What a network looked at in its mistakes, on the real digits."""

import numpy as np
import onnx
import pytest

from gapgate.evidence.measures import mistakes
from gapgate.evidence.measures.predictions import Predictions
from gapgate.onnx.classifier import softmax
from gapgate.onnx.inner_layers_export import open_embedding, open_inner_layers
from tests.gapgate.onnx_models import digits, fit_cnn, write_splits

NUM_TRAIN, NUM_VAL = 1200, 100


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    images, labels = digits()
    folder = tmp_path_factory.mktemp("data") / "splits"
    return write_splits(folder, images, labels, [str(label) for label in range(10)], (NUM_TRAIN, NUM_VAL))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    images, labels = digits()
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    return path, fit_cnn(path, images[:300], labels[:300])


def predictions(classifier, splits, split):
    rows = splits.rows(split)
    probabilities = softmax(classifier.logits(splits.images[rows]))
    return Predictions(rows, splits.labels[rows], probabilities, np.zeros(len(rows)), None)


@pytest.fixture(scope="module")
def found(model, splits):
    path, classifier = model
    sides = (predictions(classifier, splits, split) for split in ("train", "test"))
    return mistakes.find(open_embedding(onnx.load(path)), splits, *sides)


def test_the_most_confident_mistakes_come_first(found, model, splits):
    test = predictions(model[1], splits, "test")
    wrong = sorted(test.confidence[~test.correct], reverse=True)
    assert len(wrong) > mistakes.MAX_MISTAKES
    assert [entry["confidence"] for entry in found] == pytest.approx(wrong[: mistakes.MAX_MISTAKES])
    assert all(entry["predicted"] != entry["label"] == splits.labels[entry["row"]] for entry in found)
    assert found[0]["id"] == f"image {found[0]['row']}"


def test_the_neighbours_are_those_of_a_search_through_all_training_images(found, model, splits):
    """Also where only the 500 with the most similar answers are compared."""
    layers = open_inner_layers(onnx.load(model[0]))
    train = splits.rows("train")
    embeddings = layers.embeddings(splits.images[train]).astype(np.float64)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    for entry in found:
        query = layers.embeddings(splits.images[[entry["row"]]])[0].astype(np.float64)
        cosines = embeddings @ query / np.linalg.norm(query)
        nearest = np.argsort(-cosines, kind="stable")[:5]
        assert [near["row"] for near in entry["nearest"]] == train[nearest].tolist()
        assert [near["similarity"] for near in entry["nearest"]] == pytest.approx(cosines[nearest], abs=1e-4)
        assert [near["label"] for near in entry["nearest"]] == splits.labels[train[nearest]].tolist()


def test_with_few_training_images_there_are_as_many_neighbours(model, splits):
    path, _ = model
    rows = splits.rows("train")[:3]
    places, cosines = mistakes.nearest(open_embedding(onnx.load(path)), splits, rows, splits.rows("test")[:2])
    assert places.shape == cosines.shape == (2, 3)
    assert (np.diff(cosines, axis=1) <= 0).all()


def test_an_image_in_the_training_sample_is_its_own_neighbour(model, splits):
    rows = splits.rows("train")
    places, cosines = mistakes.nearest(open_embedding(onnx.load(model[0])), splits, rows, rows[[7, 1100]])
    assert places[:, 0].tolist() == [7, 1100]
    np.testing.assert_allclose(cosines[:, 0], 1)


def test_few_classes_leave_no_candidate_out():
    answers = np.full((700, 2), 0.5, np.float32)
    assert len(mistakes._alike(answers[:1], answers)) == 700
    many = np.random.default_rng(0).dirichlet(np.ones(10), 700).astype(np.float32)
    assert 500 <= len(mistakes._alike(many[:2], many)) < 700


def test_each_mistake_is_drawn_with_its_heat_and_neighbours(found, model, splits):
    drawn = mistakes.draw(found, model[1], splits, fill=0)
    assert len(drawn) == len(found)
    for entry, mistake in zip(found, drawn, strict=True):
        np.testing.assert_array_equal(mistake.image, splits.images[entry["row"]])
        assert mistake.heat.shape == (224, 224, 3)
        assert len(mistake.nearest_images) == len(mistake.similarities) == 5


def test_a_network_without_embedding_or_without_mistakes_has_nothing_to_show(model, splits, tmp_path):
    from tests.serving.packaged import onnx, pooled_model

    onnx.save(pooled_model(), tmp_path / "model.onnx")
    train, test = (predictions(model[1], splits, split) for split in ("train", "test"))
    assert mistakes.find(open_embedding(onnx.load(tmp_path / "model.onnx")), splits, train, test) == []
    right = Predictions(
        test.rows[test.correct], test.labels[test.correct], test.probabilities[test.correct], None, None
    )
    assert mistakes.find(open_embedding(onnx.load(model[0])), splits, train, right) == []
