import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from gapgate.evidence.measures import gap
from gapgate.evidence.measures.gap import Interval


def answers(num_right: int, num_images: int) -> np.ndarray:
    return np.arange(num_images) < num_right


def measured(num_right: int, num_images: int, seed: int = 0, **options: object) -> gap.Accuracy:
    return gap.measure(answers(num_right, num_images), np.random.default_rng(seed), **options)


def posterior(num_right: float, num_images: float) -> tuple[float, float]:
    """Parameters of Jeffreys' Beta, modified where all answers are alike."""
    num_wrong = num_images - num_right
    return (max(num_right, 1), max(num_wrong, 1)) if 0 in (num_right, num_wrong) else (num_right + 0.5, num_wrong + 0.5)


def test_the_same_accuracy_on_both_sides_is_no_gap() -> None:
    found = gap.gap(measured(90, 100, seed=1), measured(90, 100, seed=2))
    assert found.value == 0
    assert found.low < 0 < found.high


def test_the_fashion_mnist_gap_is_four_points_and_about_half_a_point_wide_on_each_side() -> None:
    found = gap.gap(measured(19_120, 20_000), measured(9_160, 10_000, seed=1))
    assert found.value == pytest.approx(4.0)
    assert found.low == pytest.approx(4.0 - 0.61, abs=0.05)
    assert found.high == pytest.approx(4.0 + 0.61, abs=0.05)


@pytest.mark.parametrize(("num_right", "num_images"), [(0, 10), (3, 10), (10, 10), (441, 450)])
def test_single_images_give_the_jeffreys_interval(num_right: int, num_images: int) -> None:
    found = measured(num_right, num_images, num_resamples=200_000).interval(0.95)
    low, high = beta.ppf([0.025, 0.975], *posterior(num_right, num_images))
    value = num_right / num_images
    assert (found.low, found.high) == pytest.approx((min(low, value), max(high, value)), abs=0.004)


@pytest.mark.parametrize("num_images", [1, 10, 78])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_a_perfect_score_has_the_exact_limit_of_clopper_and_pearson(num_images: int, level: float) -> None:
    least = beta.ppf((1 - level) / 2, num_images, 1)
    assert gap.jeffreys_interval(num_images, num_images, level) == Interval(1, pytest.approx(least), 1)
    assert gap.jeffreys_interval(0, num_images, level) == Interval(0, 0, pytest.approx(1 - least))


def test_a_perfect_score_on_ten_images_is_not_certain() -> None:
    found = gap.gap(measured(1200, 1200), measured(10, 10, seed=1))
    assert found.value == 0
    assert found.high > 15


@pytest.mark.parametrize(("num_images", "passes"), [(78, False), (115, False), (150, True)])
def test_a_perfect_score_passes_a_limit_only_where_a_model_at_the_limit_seldom_has_it(
    num_images: int, passes: bool
) -> None:
    # 0.97 ** n, the chance that a model with a gap of 3 points has no error, falls below 2.5 % at 122 images.
    found = gap.gap(measured(5000, 5000), measured(num_images, num_images, seed=1, num_resamples=10_000))
    assert (found.high < 3.0) == passes
    assert gap.jeffreys_interval(num_images, num_images).low == pytest.approx(0.025 ** (1 / num_images))


def coverage(
    accuracies: tuple[float, float], sizes: tuple[int, int], cluster: int = 1, with_groups: bool = True
) -> float:
    """The share of 600 simulated evaluations whose interval holds the true gap. Images come in clusters of equal
    answers."""
    rng = np.random.default_rng(20_26)
    true_gap = (accuracies[0] - accuracies[1]) * 100
    held = 0
    for _ in range(600):
        sides = []
        for accuracy, size in zip(accuracies, sizes, strict=True):
            correct = np.repeat(rng.random(size) < accuracy, cluster)
            groups = np.repeat(np.arange(size), cluster) if with_groups and cluster > 1 else None
            sides.append(gap.measure(correct, rng, groups=groups, num_resamples=1000))
        found = gap.gap(sides[0], sides[1])
        held += found.low <= true_gap <= found.high
    return held / 600


@pytest.mark.parametrize(
    ("accuracies", "sizes"),
    [((0.99, 0.9), (200, 30)), ((0.9, 0.8), (40, 20)), ((0.7, 0.7), (15, 15)), ((0.97, 0.93), (60, 60))],
)
def test_the_interval_holds_the_true_gap_about_95_times_in_100_at_small_n(
    accuracies: tuple[float, float], sizes: tuple[int, int]
) -> None:
    assert 0.93 <= coverage(accuracies, sizes) <= 0.985


def test_groups_keep_the_coverage_that_single_images_lose() -> None:
    accuracies, sizes = (0.95, 0.85), (60, 40)
    assert 0.93 <= coverage(accuracies, sizes, cluster=5) <= 0.985
    assert coverage(accuracies, sizes, cluster=5, with_groups=False) < 0.75


def test_groups_of_one_image_change_nothing() -> None:
    alone = measured(40, 50)
    grouped = measured(40, 50, groups=np.arange(50))
    np.testing.assert_array_equal(alone.draws, grouped.draws)


def test_groups_of_different_sizes_keep_the_accuracy_over_images() -> None:
    correct = np.array([True] * 30 + [False] * 10)
    groups = np.array([0] * 20 + [1] * 15 + [2] * 3 + [3] * 2)
    found = gap.measure(correct, np.random.default_rng(0), groups=groups)
    assert found.value == 0.75
    assert found.interval().high - found.interval().low > 0.4


@pytest.mark.parametrize("size", [1, 2, 20])
@pytest.mark.parametrize(("num_right", "num_groups"), [(8, 8), (0, 8), (6, 8)])
def test_whole_groups_of_any_one_size_have_the_jeffreys_interval_of_as_many_images(
    num_right: int, num_groups: int, size: int
) -> None:
    # The size m cancels: (Σ w m + u m) / (Σ w m + (u + v) m) is Beta(right + ½, wrong + ½) of the groups.
    correct = np.repeat(answers(num_right, num_groups), size)
    groups = np.repeat(np.arange(num_groups), size)
    draws = gap.measure(correct, np.random.default_rng(0), groups=groups, num_resamples=100_000).draws
    expected = beta.ppf([0.025, 0.5, 0.975], *posterior(num_right, num_groups))
    assert np.quantile(draws, [0.025, 0.5, 0.975]) == pytest.approx(expected, abs=0.006)


def test_the_same_seed_gives_the_same_interval_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(40, 50, seed=3).interval()
    assert first == measured(40, 50, seed=3).interval()
    monkeypatch.setattr(gap, "CHUNK_VALUES", 100)
    chunked = measured(40, 50, seed=3).interval()
    assert (chunked.low, chunked.high) == pytest.approx((first.low, first.high), abs=0.02)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        measured(0, 0)


@given(st.integers(1, 200), st.integers(1, 200), st.data())
@settings(max_examples=40, deadline=None)
def test_the_value_lies_in_its_interval(num_train: int, num_test: int, data: st.DataObject) -> None:
    train = measured(data.draw(st.integers(0, num_train)), num_train, num_resamples=1000)
    test = measured(data.draw(st.integers(0, num_test)), num_test, seed=1, num_resamples=1000)
    for found in (gap.gap(train, test), train.interval(), test.interval()):
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("train", "test", "limit"),
    [((1195, 1200), (97, 100), 4.0), ((19_000, 20_000), (450, 500), 3.0), ((1200, 1200), (10, 10), 3.0)],
)
def test_that_many_images_do_decide_and_four_fifths_of_them_do_not(
    train: tuple[int, int], test: tuple[int, int], limit: float
) -> None:
    accuracy = test[0] / test[1]
    train_side, test_side = measured(*train, num_resamples=100_000), measured(*test, seed=1).interval()
    point = (train[0] / train[1] - accuracy) * 100
    upwards = limit < point
    interval = train_side.interval()
    needed = gap.images_to_decide(
        test_side,
        test[1],
        abs(limit - point) / 100,
        upwards=upwards,
        fixed_width=interval.value - interval.low if upwards else interval.high - interval.value,
    )
    assert needed is not None

    def is_decided(num_images: float) -> bool:
        draws = np.random.default_rng(5).beta(*posterior(accuracy * num_images, num_images), 100_000)
        found = gap.gap(train_side, gap.Accuracy(accuracy, int(num_images), draws))
        return found.high <= limit or found.low > limit

    assert is_decided(1.1 * needed)
    assert not is_decided(0.8 * needed)


def test_no_number_of_test_images_decides_what_train_leaves_open() -> None:
    test = Interval(0.95, 0.93, 0.97)
    assert gap.images_to_decide(test, 400, 0.01, upwards=False, fixed_width=0.01) is None
    assert gap.images_to_decide(test, 400, 0.0, upwards=False) is None


def test_dependent_images_need_more_of_them() -> None:
    alone = gap.jeffreys_interval(380, 400)
    wider = Interval(alone.value, alone.value - 2 * (alone.value - alone.low), alone.value + 2 * (alone.high - 0.95))
    few = gap.images_to_decide(alone, 400, 0.01, upwards=False)
    many = gap.images_to_decide(wider, 400, 0.01, upwards=False)
    assert few is not None
    assert many is not None
    assert many == pytest.approx(4 * few, rel=0.01)


@pytest.mark.parametrize(("num_right", "distance"), [(200, 0.01), (360, 0.004), (3, 0.004)])
@pytest.mark.parametrize("upwards", [True, False])
def test_the_images_to_decide_are_the_least_number_that_does(num_right: int, distance: float, upwards: bool) -> None:
    alone = gap.jeffreys_interval(num_right, 400)
    found = gap.images_to_decide(alone, 400, distance, upwards=upwards)
    assert isinstance(found, int)

    def half_width(num_images: int) -> float:
        right = alone.value * num_images
        low, high = beta.ppf([0.025, 0.975], right + 0.5, num_images - right + 0.5)
        return float(high - alone.value if upwards else alone.value - low)

    assert half_width(found) <= distance < half_width(found - 1)


@pytest.mark.parametrize(("distance", "is_possible"), [(3.2e-5, True), (3.0e-5, False)])
def test_a_thousand_million_images_are_the_most(distance: float, is_possible: bool) -> None:
    # 1.96 √(¼ / n) is 3.1e-5 there.
    found = gap.images_to_decide(gap.jeffreys_interval(50, 100), 100, distance, upwards=True)
    assert found == (pytest.approx(1.96**2 / 4 / distance**2, rel=1e-3) if is_possible else None)


def test_an_interval_narrower_than_that_of_single_images_counts_as_theirs() -> None:
    alone = gap.jeffreys_interval(50, 100)
    narrow = Interval(0.5, 0.49, 0.51)
    expected = gap.images_to_decide(alone, 100, 0.01, upwards=True)
    assert gap.images_to_decide(narrow, 100, 0.01, upwards=True) == expected


def test_a_gap_takes_test_off_train_and_widens_by_both() -> None:
    train = gap.Accuracy(0.9, 10, np.linspace(0.8, 1.0, 201))
    test = gap.Accuracy(0.7, 10, np.full(201, 0.75))
    found = gap.gap(train, test, 0.9)
    assert (found.value, found.low, found.high) == pytest.approx((20, 6, 24))  # 0.81 − 0.75 and 0.99 − 0.75
    assert train.interval(0.9) == Interval(0.9, pytest.approx(0.81), pytest.approx(0.99))
    assert test.interval(0.9) == Interval(0.7, 0.7, 0.75)  # stretched to the value


def test_an_accuracy_has_ten_thousand_draws_unless_told_otherwise() -> None:
    found = measured(3, 4)
    assert (found.value, found.num_images, found.draws.shape) == (0.75, 4, (10_000,))
    assert measured(3, 4, num_resamples=7).draws.shape == (7,)


@pytest.mark.parametrize("chunk_values", [1, 8, 40])
def test_every_draw_is_made_however_many_fit_into_memory(monkeypatch: pytest.MonkeyPatch, chunk_values: int) -> None:
    monkeypatch.setattr(gap, "CHUNK_VALUES", chunk_values)
    draws = gap.measure(answers(5, 10), np.random.default_rng(0), num_resamples=2003).draws
    assert len(np.unique(draws)) == 2003
    assert np.quantile(draws, [0.1, 0.5, 0.9]) == pytest.approx(beta.ppf([0.1, 0.5, 0.9], 5.5, 5.5), abs=0.03)


def test_groups_count_by_their_images_whatever_their_numbers() -> None:
    correct = np.array([True, False, True, True, False])
    draws = [
        gap.measure(correct, np.random.default_rng(0), groups=np.array(groups), num_resamples=50).draws
        for groups in ([0, 0, 1, 1, 1], [7, 7, -3, -3, -3])
    ]
    np.testing.assert_array_equal(*(np.sort(one) for one in draws))


def test_intervals_and_accuracies_are_frozen() -> None:
    for one in (Interval(0.5, 0.4, 0.6), measured(1, 2)):
        with pytest.raises(AttributeError):
            one.value = 0.7  # type: ignore[misc]


@pytest.mark.parametrize(("distance", "fixed_width"), [(0.02, 0.01), (0.05, 0.03)])
def test_a_width_that_stays_is_squared_and_taken_off(distance: float, fixed_width: float) -> None:
    alone = gap.jeffreys_interval(50, 100)
    found = gap.images_to_decide(alone, 100, distance, upwards=True, fixed_width=fixed_width)
    assert found == pytest.approx(1.96**2 / 4 / (distance**2 - fixed_width**2), rel=5e-3)


@pytest.mark.parametrize("times", [1.3, 1.5, 2.0])
def test_images_of_groups_count_for_as_much_of_one_as_the_measured_interval_says(times: float) -> None:
    alone = gap.jeffreys_interval(50, 100)
    wider = Interval(0.5, 0.5 - times * (0.5 - alone.low), 0.5 + times * (alone.high - 0.5))
    found = gap.images_to_decide(wider, 100, 0.05, upwards=True)
    assert found is not None

    def half_width(num_images: float) -> float:
        return gap.jeffreys_interval(num_images / times**2 / 2, num_images / times**2).high - 0.5

    assert half_width(found) <= 0.05 < half_width(found - 1)


def test_an_inflated_accuracy_deviates_by_the_factor_and_stays_a_share() -> None:
    alone, twice = measured(500, 1000), measured(500, 1000, inflation=2.0)
    assert twice.value == alone.value
    np.testing.assert_allclose(twice.draws - 0.5, 2 * (alone.draws - 0.5))
    for num_right in (0, 1):
        draws = measured(num_right, 1, inflation=3.0).draws
        assert (draws.min(), draws.max()) == pytest.approx((0, 1), abs=1e-3)


def folds(num_both: int, num_trained: int, num_held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers in a cross-validation, by who was right: the models that have seen an image, and the one that has not."""
    counts = [num_both, num_trained, num_held_out]
    return np.repeat([1.0, 1.0, 0.0], counts), np.repeat([True, False, True], counts)


@pytest.mark.parametrize("size", [1, 4])
def test_the_gap_of_folds_is_drawn_image_by_image_and_a_fifth_wider(size: int) -> None:
    trained, held_out = (np.repeat(side, size) for side in folds(30, 10, 0))
    groups = np.repeat(np.arange(40), size) if size > 1 else None
    found = gap.paired_gap(trained, held_out, np.random.default_rng(0), groups=groups, num_resamples=100_000)
    # The posterior of the three shares, with half an image of the prior on each side.
    expected = np.random.default_rng(1).dirichlet([30, 10.5, 0.5], 500_000) @ [0, 100, -100]
    low, high = 25 + 1.2 * (np.quantile(expected, [0.025, 0.975]) - 25)
    assert found.value == 25
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.3)


def test_the_gap_of_folds_has_ten_thousand_draws_and_95_percent_unless_told_otherwise() -> None:
    answered = folds(80, 15, 5)
    named = gap.paired_gap(*answered, np.random.default_rng(0), num_resamples=10_000, confidence_level=0.95)
    assert gap.paired_gap(*answered, np.random.default_rng(0)) == named
    narrow = gap.paired_gap(*answered, np.random.default_rng(0), confidence_level=0.5)
    assert narrow.high - narrow.low < 0.5 * (named.high - named.low)
