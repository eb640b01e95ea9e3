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


def answered(rows, labels, shares):
    """Predictions whose probabilities (n, K) are given."""
    return Predictions(np.array(rows), np.array(labels, np.int32), np.array(shares, np.float32), None, None)


def test_of_equally_sure_mistakes_the_first_of_the_split_comes_first():
    test = answered(range(5), [1, 1, 0, 1, 1], [[0.75, 0.25], [0.9, 0.1], [0.8, 0.2], [0.75, 0.25], [0.9, 0.1]])
    assert mistakes.confident_mistakes(test, 9).tolist() == [1, 4, 0, 3]
    assert mistakes.confident_mistakes(test, 3).tolist() == [1, 4, 0]


def test_so_many_mistakes_of_a_pair_of_classes_have_a_picture_and_so_many_in_all(splits, monkeypatch):
    monkeypatch.setattr(mistakes, "MAX_SHOWN_OF_PAIR", 2)
    monkeypatch.setattr(mistakes, "MAX_SHOWN", 4)
    # Of label 0, answer 1 has four and answer 2 two; of label 1, answer 0 has two. The surest come first.
    pairs = [(0, 1), (0, 1), (0, 1), (0, 2), (1, 0), (0, 1), (0, 2), (1, 0)]
    shares = np.full((8, 3), 0.0)
    for at, (_, said) in enumerate(pairs):
        shares[at] = (1 - (0.95 - 0.05 * at)) / 2
        shares[at, said] = 0.95 - 0.05 * at
    found = mistakes.shown(answered(range(20, 28), [label for label, _ in pairs], shares), splits)
    assert [one["row"] for one in found] == [20, 21, 23, 24]
    assert found[3] == {
        "row": 24, "id": "image 24", "label": 1, "predicted": 0, "confidence": pytest.approx(0.75),
    }  # fmt: skip


@pytest.mark.parametrize(("num_classes", "is_chosen"), [(4, False), (5, True)])
def test_from_five_classes_on_the_images_of_most_similar_answers_are_compared(monkeypatch, num_classes, is_chosen):
    monkeypatch.setattr(mistakes, "_NUM_ALIKE", 3)
    # The logits of an answer less their mean are a direction: that of the first three is the query's, however long.
    direction = np.arange(num_classes) - (num_classes - 1) / 2
    logits = np.stack([0.5 * direction, 2 * direction, 3 * direction + 7, -direction, direction[::-1] * 2])
    answers = softmax(logits.astype(np.float32))
    found = mistakes._alike(softmax(direction[None].astype(np.float32)), answers)
    assert found.tolist() == ([0, 1, 2] if is_chosen else [0, 1, 2, 3, 4])


def test_a_mistake_is_no_neighbour_of_its_own_and_counts_once_for_all_models_of_a_cross_validation(model, splits):
    path, classifier = model
    test = predictions(classifier, splits, "test")
    # Each image was trained on by two models, and the mistakes are among the images.
    rows = np.concatenate([splits.rows("train")[:300], test.rows, splits.rows("train")[:300]])
    train = Predictions(rows, splits.labels[rows], softmax(classifier.logits(splits.images[rows])), None, None)
    chosen = test.rows[mistakes.confident_mistakes(test, mistakes.MAX_MISTAKES)]
    found = mistakes.find(open_embedding(onnx.load(path)), splits, train, test)
    assert [entry["row"] for entry in found] == chosen.tolist()
    for entry in found:
        near = [one["row"] for one in entry["nearest"]]
        assert len(set(near)) == 5
        assert not set(near) & set(chosen.tolist())


def test_the_heat_is_that_of_the_answer_and_not_of_the_label(found, model, splits, monkeypatch):
    asked = []
    real = mistakes.occlusion

    def occlusion(classifier, image, class_index, **more):
        asked.append((class_index, more["fill"]))
        return real(classifier, image, class_index, **more)

    monkeypatch.setattr(mistakes, "occlusion", occlusion)
    mistakes.draw(found[:2], model[1], splits, fill=9)
    assert asked == [(entry["predicted"], 9) for entry in found[:2]]


def test_neighbours_are_sought_block_by_block(model, splits, monkeypatch):
    layers, rows = open_embedding(onnx.load(model[0])), splits.rows("train")[:50]
    expected = mistakes.nearest(layers, splits, rows, splits.rows("test")[:3])
    monkeypatch.setattr(mistakes, "_BLOCK_ROWS", 7)
    for found, wanted in zip(mistakes.nearest(layers, splits, rows, splits.rows("test")[:3]), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_order_of_the_training_answers_does_not_matter(model, splits, monkeypatch):
    monkeypatch.setattr(mistakes, "_NUM_ALIKE", 8)
    path, classifier = model
    train, test = (predictions(classifier, splits, split) for split in ("train", "test"))
    order = np.random.default_rng(0).permutation(len(train.rows))
    mixed = Predictions(train.rows[order], train.labels[order], train.probabilities[order], None, None)
    layers = open_embedding(onnx.load(path))
    assert mistakes.find(layers, splits, mixed, test) == mistakes.find(layers, splits, train, test)
