"""The last layer on fixed features, beside scikit-learn's logistic regression on the same."""

import numpy as np
import pytest
import sklearn.model_selection
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from gapgate.training.pretrained import linear_head


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data.astype(np.float32), data.target.astype(np.int32)


@pytest.mark.parametrize("num_images", [40, 900])  # fewer and more than the 64 features
def test_it_is_the_logistic_regression_of_the_penalty_that_was_chosen(digits, num_images):
    features, labels = digits[0][:num_images], digits[1][:num_images]
    head = linear_head.fit(features, labels, 10)
    std = features.std(axis=0)
    std[std == 0] = 1
    inputs = (features - features.mean(axis=0)) / std
    peer = LogisticRegression(C=1 / (head.penalty * num_images), tol=1e-8, max_iter=5000).fit(inputs, labels)
    theirs, ours = peer.predict_proba(inputs), softmax(head.logits(features))
    assert np.abs(theirs - ours).max() < 0.02
    assert (theirs.argmax(axis=1) == ours.argmax(axis=1)).mean() > 0.995


def test_noise_gets_a_strong_penalty_and_signal_a_weak_one(digits):
    rng = np.random.default_rng(0)
    noise = linear_head.fit(rng.normal(size=(300, 64)).astype(np.float32), rng.integers(0, 3, 300).astype(np.int32), 3)
    signal = linear_head.fit(digits[0][:900], digits[1][:900], 10)
    assert noise.penalty == max(linear_head.PENALTIES) > signal.penalty


def test_two_classes_and_constant_features(digits):
    kept = digits[1] < 2
    features = np.pad(digits[0][kept], ((0, 0), (0, 3)), constant_values=7)
    head = linear_head.fit(features, digits[1][kept], 2)
    assert head.weight.shape == (2, 67)
    assert (head.logits(features).argmax(axis=1) == digits[1][kept]).all()


@pytest.mark.parametrize("value", [0.1, -1.7, 1000.1])
def test_a_feature_that_is_the_same_in_all_images_has_no_weight(value):
    # The mean of 90 times 0.1 in float32 is not 0.1, so the standard deviation is not 0.
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 4)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int32)
    features[:, 3] = value
    head = linear_head.fit(features, labels, 2)
    assert np.abs(head.weight[:, 3]).max() < 1e-3
    others = linear_head.fit(features[:, :3], labels, 2)
    np.testing.assert_allclose(head.logits(features), others.logits(features[:, :3]), atol=1e-2)


def test_balanced_classes_weigh_the_same_however_many_images_they_have():
    # Two clouds that overlap, of 180 and of 20 images: as scikit-learn's own weights.
    rng = np.random.default_rng(0)
    labels = (np.arange(200) >= 180).astype(np.int32)
    features = (rng.normal(size=(200, 5)) + labels[:, None]).astype(np.float32)
    inputs = (features - features.mean(axis=0)) / features.std(axis=0)
    shares = []
    for is_balanced in (False, True):
        head = linear_head.fit(features, labels, 2, is_balanced=is_balanced)
        weights = "balanced" if is_balanced else None
        peer = LogisticRegression(C=1 / (head.penalty * 200), tol=1e-8, max_iter=5000, class_weight=weights)
        shares.append(softmax(head.logits(features))[:, 1])
        assert np.abs(peer.fit(inputs, labels).predict_proba(inputs)[:, 1] - shares[-1]).max() < 0.02
    assert shares[0].mean() == pytest.approx(0.1, abs=0.01)
    assert shares[1].mean() > 0.2


def test_the_folds_are_drawn_by_the_seed(digits, monkeypatch):
    drawn = []

    class Folds(sklearn.model_selection.StratifiedGroupKFold):
        def split(self, *args):
            for train, held_out in super().split(*args):
                drawn.append((self.random_state, tuple(held_out)))
                yield train, held_out

    monkeypatch.setattr(sklearn.model_selection, "StratifiedGroupKFold", Folds)
    for seed in (0, 5):
        linear_head.fit(digits[0][:60], digits[1][:60], 10, seed=seed)
    assert [seed for seed, _ in drawn] == [0] * 3 + [5] * 3
    assert drawn[0][1] != drawn[3][1]
    # Each image is held out once.
    assert sorted(sum((rows for _, rows in drawn[:3]), ())) == list(range(60))


def test_a_class_without_images_lies_20_below_the_least_bias_whatever_the_image(digits):
    kept = digits[1][:600] != 4
    features = digits[0][:600][kept]
    head = linear_head.fit(features, digits[1][:600][kept], 10)
    assert not head.weight[4].any()
    # At the mean of the features the others have their biases on standardised features.
    at_the_mean = np.delete(head.logits(features.mean(axis=0, keepdims=True))[0], 4)
    assert head.bias[4] == pytest.approx(at_the_mean.min() - 20, abs=1e-3)


def test_a_class_without_images_is_never_the_answer(digits):
    kept = digits[1] != 4
    head = linear_head.fit(digits[0][kept], digits[1][kept], 10)
    assert 4 not in head.logits(digits[0]).argmax(axis=1)


def test_a_class_of_one_image_and_a_set_of_one_class_are_fitted(digits):
    features = np.concatenate([digits[0][digits[1] == 1][:20], digits[0][digits[1] == 0][:1]])
    labels = np.array([1] * 20 + [0], np.int32)
    assert linear_head.fit(features, labels, 2).logits(features).argmax(axis=1).tolist() == labels.tolist()
    alone = linear_head.fit(features[:5], labels[:5], 2)
    assert alone.logits(features[:5]).argmax(axis=1).tolist() == [1] * 5


def test_groups_stay_in_one_fold(digits):
    # 30 images, each 20 times with a little noise: only with the groups apart does the choice see what is new.
    rng = np.random.default_rng(0)
    copies = digits[0][:30].repeat(20, axis=0) + rng.normal(scale=0.01, size=(600, 64)).astype(np.float32)
    labels = rng.integers(0, 2, 30).astype(np.int32).repeat(20)
    groups = np.arange(30).repeat(20)
    together = linear_head.fit(copies, labels, 2, groups=groups)
    apart = linear_head.fit(copies, labels, 2)
    assert together.penalty > apart.penalty


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
