"""Which image goes where: stickiness, exact shares, groups and duplicates."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gapgate.data import decoding
from gapgate.data import partition as partitions
from gapgate.data.image_table import Index
from gapgate.data.partition import FOLDS, partition, unit_share
from gapgate.data.sources import Record
from gapgate.data.splits import SPLIT_NAMES
from gapgate.errors import DataError
from gapgate.settings.sections import PreprocessSettings


def split_index(path, images, near=(), bonds=None, **options):
    """Splits of `images`, tuples (label, hash, given split, group), without decoding anything."""
    path.unlink(missing_ok=True)
    index = Index(path)
    index.fill(Record(f"{n:05d}", label, split, group, "") for n, (label, _, split, group) in enumerate(images))
    index.store(decoding.Decoded(n, content, 8, 8, (1,), (1,), "") for n, (_, content, _, _) in enumerate(images))
    for row, key in (bonds or {}).items():
        index.execute("UPDATE images SET bond = ? WHERE row = ?", key, row)
    index.insert_many("INSERT INTO near VALUES (?, ?)", [*near, *((other, one) for one, other in near)])
    how = partition(index, PreprocessSettings(**{"evidence": "holdout", "stratify": False} | options))
    result = list(index.lines("SELECT id, label, hash, grp, split, reason FROM images ORDER BY row"))
    index.close()
    return result, how


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old=st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["", "g1", "g2"])), min_size=1, max_size=40),
    new=st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["", "g1", "g3"])), max_size=40),
    data=st.data(),
)
def test_growing_the_data_set_never_moves_an_image(tmp_path, old, new, data):
    def images(pairs):
        return [(number % 3, f"{number:032x}", "", group) for number, group in pairs]

    before, _ = split_index(tmp_path / "a", images(old))
    grown = data.draw(st.permutations(old + new))
    after, _ = split_index(tmp_path / "b", images(grown))
    in_use = {(h, grp): split for _, _, h, grp, split, _ in after if split in SPLIT_NAMES}
    for _, _, content, group, split, _ in before:
        if split in SPLIT_NAMES and (content, group) in in_use:
            assert in_use[content, group] == split


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    images=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 50), st.sampled_from(["", "a", "b", "c", "d"])),
        min_size=1,
        max_size=60,
    ),
    stratify=st.booleans(),
)
def test_no_group_and_no_content_is_in_two_splits(tmp_path, images, stratify):
    result, _ = split_index(
        tmp_path / "i", [(label, f"{n:032x}", "", group) for label, n, group in images], stratify=stratify
    )
    split_of_group, split_of_content = {}, {}
    for _, _, content, group, split, _ in result:
        if split in SPLIT_NAMES:
            assert split_of_content.setdefault(content, split) == split
            if group:
                assert split_of_group.setdefault(group, split) == split


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    test_fraction=st.floats(0.05, 0.5),
    val_fraction=st.floats(0.05, 0.4),
)
def test_stratified_shares_are_exact_in_every_class(tmp_path, sizes, test_fraction, val_fraction):
    images = [(label, f"{label:016x}{n:016x}", "", "") for label, size in enumerate(sizes) for n in range(size)]
    options = {"stratify": True, "test_fraction": test_fraction, "val_fraction": val_fraction}
    result, _ = split_index(tmp_path / "i", images, **options)
    for label, size in enumerate(sizes):
        splits = [split for _, of, _, _, split, _ in result if of == label]
        num_test = splits.count("test")
        assert num_test == int(size * test_fraction + 0.5)
        assert splits.count("val") == int((size - num_test) * val_fraction + 0.5)


def test_stratified_groups_come_near_the_share(tmp_path):
    images = [(n % 2, f"{n:032x}", "", f"g{n // 5 * 2 + n % 2}") for n in range(1000)]
    result, _ = split_index(tmp_path / "i", images, stratify=True, test_fraction=0.2)
    for label in (0, 1):
        share = np.mean([split == "test" for _, of, _, _, split, _ in result if of == label])
        assert share == pytest.approx(0.2, abs=0.006)


@pytest.mark.parametrize(
    ("fraction", "in_test"),
    # Ten images in groups of 2, 6 and 2, in the order of their hashes: 2, 8 or 10 images can be in test.
    [(0.04, 0), (0.1, 2), (0.2, 2), (0.4, 2), (0.5, 8), (0.6, 8), (0.8, 8), (0.9, 10)],
)
def test_stratified_groups_of_unequal_sizes_are_cut_where_the_share_is_nearest(tmp_path, fraction, in_test):
    names = sorted("abc", key=lambda name: unit_share("", "test", f"group {name}"))
    groups = [name for name, size in zip(names, (2, 6, 2), strict=True) for _ in range(size)]
    images = [(0, f"{n:032x}", "", group) for n, group in enumerate(groups)]
    options = {"stratify": True, "test_fraction": fraction, "val_fraction": 0.05}
    result, _ = split_index(tmp_path / "i", images, **options)
    assert [split == "test" for *_, split, _ in result] == [n < in_test for n in range(10)]


def test_shares_are_uniform_and_independent():
    test = np.array([unit_share("", "test", str(n)) for n in range(20_000)])
    val = np.array([unit_share("", "val", str(n)) for n in range(20_000)])
    for share in (test, val):
        assert np.histogram(share, 10, (0, 1))[0] == pytest.approx(2000, abs=200)
    assert abs(np.corrcoef(test, val)[0, 1]) < 0.03


@pytest.mark.parametrize("salt", ["a", "b", "c", "d", "e", "f"])
def test_copies_count_once_in_a_stratified_split(tmp_path, salt):
    contents = [0] * 7 + [1, 2, 3]  # four images, one of them seven times: two go into test
    images = [(0, f"{content:032x}", "", "") for content in contents]
    options = {"stratify": True, "test_fraction": 0.5, "val_fraction": 0.05, "salt": salt}
    result, _ = split_index(tmp_path / "i", images, **options)
    assert [split for *_, split, _ in result].count("test") == 2


@pytest.mark.parametrize("salt", ["a", "b", "c", "d", "e", "f"])
def test_a_group_of_several_classes_counts_with_all_its_images_for_its_largest_class(tmp_path, salt):
    group = [(label, f"{100 + n:032x}", "", "g") for n, label in enumerate([0, 1, 1, 1])]
    images = group + [(label, f"{10 * label + n:032x}", "", "") for label in (0, 2) for n in range(4)]
    options = {"stratify": True, "test_fraction": 0.4, "val_fraction": 0.05, "salt": salt}
    result, _ = split_index(tmp_path / "i", images, **options)
    # Class 1 is the group alone, four images, of which int(1.6 + ½) = 2 are wanted: the group's middle is there.
    assert {split for *_, grp, split, _ in result if grp} == {"test"}
    for label in (0, 2):
        assert [split for _, of, _, grp, split, _ in result if of == label and not grp].count("test") == 2


def test_each_class_is_split_by_itself_and_val_is_taken_from_what_is_left(tmp_path):
    images = [(label, f"{label:016x}{n:016x}", "", "") for label, size in ((0, 10), (1, 30)) for n in range(size)]
    options = {"stratify": True, "test_fraction": 0.3, "val_fraction": 0.2}
    result, _ = split_index(tmp_path / "i", images, **options)
    for label, (num_test, num_val) in ((0, (3, 1)), (1, (9, 4))):
        rest = [(content, split) for _, of, content, _, split, _ in result if of == label]
        for name, count in (("test", num_test), ("val", num_val)):
            rest.sort(key=lambda one: unit_share("", name, one[0]))
            assert [split == name for _, split in rest] == [True] * count + [False] * (len(rest) - count)
            rest = rest[count:]


def test_the_share_of_a_unit_never_changes():
    # The first 53 bits of BLAKE2b-128 over salt, purpose and unit, as a fraction. Another value would move images.
    assert unit_share("", "test", "x") == 0.1260502220651566
    assert unit_share("pepper", "val", "group 7") == 0.631781800664537


def test_a_share_that_is_the_fraction_is_not_below_it(tmp_path):
    share = unit_share("", "test", "x")
    for fraction, is_in_test in ((share, False), (np.nextafter(share, 1), True)):
        ((*_, split, _),), _ = split_index(tmp_path / "i", [(0, "x", "", "")], test_fraction=fraction)
        assert (split == "test") == is_in_test


@pytest.mark.parametrize("stratify", [False, True])
def test_the_order_of_the_images_does_not_matter(tmp_path, stratify):
    images = [(n % 3, f"{n:032x}", "", f"g{n // 4}" if n % 2 else "") for n in range(120)]
    there, back = (split_index(tmp_path / "i", some, stratify=stratify)[0] for some in (images, images[::-1]))
    assert {(content, split) for _, _, content, _, split, _ in there} == {
        (content, split) for _, _, content, _, split, _ in back
    }


def test_a_unit_is_in_test_where_its_share_is_below_the_fraction_and_else_perhaps_in_val(tmp_path):
    images = [(0, f"{n:032x}", "", f"g{n % 20}" if n < 100 else "") for n in range(300)]
    result, how = split_index(tmp_path / "i", images, test_fraction=0.3, val_fraction=0.2, salt="s")
    assert how.given_splits == ()
    for _, _, content, group, split, _ in result:
        unit = f"group {group}" if group else content
        expected = (
            "test" if unit_share("s", "test", unit) < 0.3 else "val" if unit_share("s", "val", unit) < 0.2 else "train"
        )
        assert split == expected


def test_given_val_is_kept_and_test_is_taken_from_train_when_it_is_missing(tmp_path):
    images = [(0, f"{n:032x}", "val" if n < 100 else "train", "") for n in range(1000)]
    result, how = split_index(tmp_path / "i", images, test_fraction=0.3)
    assert how.given_splits == ("train", "val")
    assert {split for _, _, _, _, split, _ in result[:100]} == {"val"}
    assert [split for _, _, _, _, split, _ in result[100:]].count("test") == pytest.approx(270, abs=50)
    assert "val" not in {split for _, _, _, _, split, _ in result[100:]}


def test_a_group_in_two_given_splits_is_refused(tmp_path):
    images = [(0, f"{n:032x}", ("train", "test")[n], "patient 7") for n in range(2)]
    with pytest.raises(DataError, match="group 'patient 7' has images in more than one given split; move each group"):
        split_index(tmp_path / "i", images)


def test_a_group_in_one_given_split_and_images_without_group_in_several_are_accepted(tmp_path):
    given = [("test", "g"), ("test", "g"), ("test", "h"), ("", "h"), ("train", ""), ("val", ""), ("train", "k")]
    images = [(0, f"{n:032x}", split, group) for n, (split, group) in enumerate(given)]
    result, _ = split_index(tmp_path / "i", images)
    assert [split for *_, split, _ in result] == ["test", "test", "test", "train", "train", "val", "train"]


# Duplicates


def test_one_of_several_copies_in_a_split_is_kept(tmp_path):
    images = [(0, f"{n % 50:032x}", "", "") for n in range(150)]
    result, how = split_index(tmp_path / "i", images)
    assert how.within_split == 100
    assert [split == "duplicate" for _, _, _, _, split, _ in result] == [False] * 50 + [True] * 100
    assert result[149][5] == "same pixels as 00049"


def test_copies_across_given_splits_stay_in_test_alone(tmp_path):
    same = "f" * 32
    images = [(0, same, "train", ""), (0, "1" * 32, "train", ""), (0, same, "val", ""), (0, same, "test", "")]
    result, how = split_index(tmp_path / "i", images)
    assert [split for _, _, _, _, split, _ in result] == ["duplicate", "train", "duplicate", "test"]
    assert how.across_splits == 2
    assert [reason for *_, reason in result] == ["same pixels in val as 00002", "", "same pixels in test as 00003", ""]


def test_copies_in_groups_of_different_splits_leave_train(tmp_path):
    groups = [f"g{n}" for n in range(40)]
    images = [(0, "f" * 32, "", group) for group in groups] + [(0, f"{n:032x}", "", g) for n, g in enumerate(groups)]
    result, how = split_index(tmp_path / "i", images)
    assert [split for _, _, content, _, split, _ in result if content == "f" * 32 and split != "duplicate"] == ["test"]
    assert how.across_splits == 2
    assert how.within_split == 37


def test_the_same_pixels_with_two_labels_are_kept_out_of_train(tmp_path):
    images = [(n % 2, f"{n // 2:032x}", "", "") for n in range(200)]
    result, how = split_index(tmp_path / "i", images)
    assert "train" not in {split for _, _, _, _, split, _ in result}
    dropped = [reason for *_, split, reason in result if split == "duplicate"]
    assert how.label_conflicts == len(dropped) > 100
    assert all(reason.startswith("same pixels with another label as ") for reason in dropped)


def test_every_dropped_copy_names_the_first_image_that_it_stands_back_for(tmp_path):
    a, b, c = ("a" * 32, "b" * 32, "c" * 32)
    images = [
        (0, a, "test", ""),  # 0
        (1, a, "test", ""),  # 1: another label: both stay, the report shows them
        (0, a, "test", ""),  # 2: copy of 0
        (1, b, "val", ""),  # 3
        (0, b, "train", ""),  # 4: another label than 3
        (1, b, "train", ""),  # 5: another label than 4
        (2, c, "train", ""),  # 6
        (2, c, "val", ""),  # 7
        (2, c, "train", ""),  # 8: copy of 6
        (2, c, "test", ""),  # 9
        (1, a, "test", ""),  # 10: copy of 1
    ]
    result, how = split_index(tmp_path / "i", images)
    assert [(split, reason) for *_, split, reason in result] == [
        ("test", ""),
        ("test", ""),
        ("duplicate", "same pixels as 00000"),
        ("val", ""),
        ("duplicate", "same pixels with another label as 00003"),
        ("duplicate", "same pixels with another label as 00004"),
        ("duplicate", "same pixels in val as 00007"),
        ("duplicate", "same pixels in test as 00009"),
        ("duplicate", "same pixels as 00006"),
        ("test", ""),
        ("duplicate", "same pixels as 00001"),
    ]
    assert (how.within_split, how.label_conflicts, how.across_splits) == (3, 2, 2)
    assert how.given_splits == ("test", "train", "val")


def test_images_that_could_not_be_read_stay_out_of_every_split(tmp_path):
    index = Index(tmp_path / "i")
    index.fill(
        Record(f"{n}", 0, split, group, "") for n, (split, group) in enumerate([("", ""), ("test", ""), ("", "g")])
    )
    index.store(
        decoding.Decoded(n, None, None, None, (), (), "truncated")
        if n < 2
        else decoding.Decoded(n, "h", 8, 8, (1,), (1,), "")
        for n in range(3)
    )
    partition(index, PreprocessSettings(evidence="holdout", stratify=True))
    splits = [split for (split,) in index.lines("SELECT split FROM images ORDER BY row")]
    index.close()
    assert splits[:2] == ["quarantined", "quarantined"]
    assert splits[2] in SPLIT_NAMES


def test_a_partition_is_frozen(tmp_path):
    _, how = split_index(tmp_path / "i", [(0, "a" * 32, "", "")])
    with pytest.raises(AttributeError):
        how.within_split = 1


def test_a_near_duplicate_across_given_splits_leaves_training_and_is_counted(tmp_path):
    images = [(0, f"{n:032x}", split, "") for n, split in enumerate(["train", "train", "val", "test", "test"])]
    result, how = split_index(tmp_path / "i", images, near=[(0, 3), (2, 4)])
    assert [(split, reason) for *_, split, reason in result] == [
        ("duplicate", "nearly the same as 00003 in test"),
        ("train", ""),
        ("duplicate", "nearly the same as 00004 in test"),
        ("test", ""),
        ("test", ""),
    ]
    assert how.near_across_splits == 2
    # Both of test, and the one of val.
    assert (how.leaks.num_images, how.leaks.near_duplicates, how.leaks.share) == (3, 3, 1.0)


def test_label_conflicts_inside_test_are_counted(tmp_path):
    images = [
        (0, "a" * 32, "test", ""),
        (1, "a" * 32, "test", ""),
        (0, "b" * 32, "test", ""),
        (1, "c" * 32, "train", ""),
    ]
    _, how = split_index(tmp_path / "i", images)
    assert (how.leaks.label_conflicts, how.leaks.copies) == (2, 0)


def test_images_of_one_bond_are_in_one_split(tmp_path):
    images = [(n % 2, f"{n:032x}", "", "") for n in range(200)]
    result, how = split_index(tmp_path / "i", images, bonds={n: f"series {n // 10}" for n in range(200)})
    for start in range(0, 200, 10):
        assert len({split for *_, split, _ in result[start : start + 10]}) == 1
    assert how.leaks.share == 0


def test_a_bond_torn_by_given_splits_is_counted(tmp_path):
    images = [(0, f"{n:032x}", "test" if n == 0 else "train", "") for n in range(4)]
    _, how = split_index(tmp_path / "i", images, bonds={0: "shots x", 1: "shots x"})
    assert how.leaks.groups == 1


def test_a_set_too_small_for_a_share_still_has_an_image_in_val(tmp_path):
    images = [(n % 2, f"{n:032x}", "", "") for n in range(4)]
    result, how = split_index(tmp_path / "i", images, evidence="auto", val_fraction=0.01)
    assert how.num_folds == 5
    assert sorted(split for *_, split, _ in result) == ["train"] * 3 + ["val"]


# Folds


def folds_of(path, images, **options):
    """(label, hash, group, split, fold) of each of `images`, tuples as those of `split_index`."""
    index = Index(path)
    index.fill(Record(f"{n:05d}", label, split, group, "") for n, (label, _, split, group) in enumerate(images))
    index.store(decoding.Decoded(n, content, 8, 8, (1,), (1,), "") for n, (_, content, _, _) in enumerate(images))
    how = partition(index, PreprocessSettings(**{"evidence": "cross_validation"} | options))
    result = list(index.lines("SELECT label, hash, grp, split, fold FROM images ORDER BY row"))
    index.close()
    assert how.num_folds == FOLDS == 5
    return result


def test_a_fold_is_the_place_of_a_unit_among_those_of_its_class_by_their_hash(tmp_path):
    images = [
        (label, f"{label:016x}{n:016x}", "", "") for label, size in ((0, 6), (1, 20), (2, 6)) for n in range(size)
    ]
    found = folds_of(tmp_path / "i", images, salt="pepper")
    for label in range(3):
        own = sorted((one for one in found if one[0] == label), key=lambda one: unit_share("pepper", "fold", one[1]))
        # The middle of each image on a line of five folds; each class begins at another fold.
        expected = [(int((at + 0.5) * 5 / len(own)) + label) % 5 for at in range(len(own))]
        assert [one[4] for one in own] == expected
    counts = {label: np.bincount([one[4] for one in found if one[0] == label]).tolist() for label in range(3)}
    # Of six images one fold has two: the third of the class, counted from where it begins.
    assert counts == {0: [1, 1, 2, 1, 1], 1: [4] * 5, 2: [1, 1, 1, 1, 2]}


def test_all_of_train_and_val_is_in_a_fold_and_nothing_else(tmp_path):
    images = [(n % 2, f"{n // 2 if n < 4 else n:032x}", "test" if n >= 35 else "", "") for n in range(40)]
    images[2] = (0, images[0][1], "", "")  # a copy
    found = folds_of(tmp_path / "i", images, val_fraction=0.3)
    assert {split for *_, split, _ in found} == {"train", "val", "test", "duplicate"}
    for *_, split, fold in found:
        assert (fold in range(5)) == (split in ("train", "val"))
        assert (fold is None) == (split in ("test", "duplicate"))


def test_a_group_is_in_one_fold(tmp_path):
    images = [(n % 3, f"{n:032x}", "", f"g{n // 7}") for n in range(210)]
    found = folds_of(tmp_path / "i", images)
    folds = {}
    for _, _, group, _, fold in found:
        assert folds.setdefault(group, fold) == fold
    assert set(folds.values()) == set(range(5))


@pytest.mark.parametrize(
    ("counts", "evidence", "num_folds"),
    [
        ({"": 9}, "auto", 5),
        ({"": 10}, "auto", 0),
        ({"": 5, "val": 4}, "auto", 5),  # those of val would be dealt to the folds too
        ({"": 5, "val": 5}, "auto", 0),
        ({"": 5, "test": 4}, "auto", 0),
        ({"": 5}, "holdout", 0),
        ({"": 50}, "cross_validation", 5),
        ({"": 5, "test": 4}, "cross_validation", 5),
    ],
)
def test_fewer_images_than_decide_are_judged_in_folds_unless_the_source_has_a_test_split(
    tmp_path, monkeypatch, counts, evidence, num_folds
):
    monkeypatch.setattr(partitions, "FOLDED_IMAGES", 10)
    given = [split for split, count in counts.items() for _ in range(count)]
    images = [(n % 2, f"{n:032x}", split, "") for n, split in enumerate(given)]
    assert split_index(tmp_path / "i", images, evidence=evidence)[1].num_folds == num_folds


@pytest.mark.parametrize(
    ("smallest", "stratify", "expected"), [(3, "auto", True), (4, "auto", False), (3, False, False)]
)
def test_a_small_class_is_divided_exactly_and_copies_count_once(tmp_path, monkeypatch, smallest, stratify, expected):
    monkeypatch.setattr(partitions, "STRATIFIED_CLASS_IMAGES", 4)
    contents = [(0, n) for n in range(9)] + [(1, 100 + n) for n in range(smallest)] + [(1, 100)] * 3
    index = Index(tmp_path / "i")
    index.fill(Record(f"{n}", label, "", "", "") for n, (label, _) in enumerate(contents))
    index.store(decoding.Decoded(n, f"{of:x}", 8, 8, (1,), (1,), "") for n, (_, of) in enumerate(contents))
    assert partitions._is_stratified(index, PreprocessSettings(stratify=stratify)) == expected
    index.close()


def test_the_smallest_unit_is_given_to_val_where_a_share_gives_none(tmp_path):
    groups = ["big"] * 5 + ["small"] * 2 + ["middle"] * 3
    images = [(n % 2, f"{n:032x}", "", group) for n, group in enumerate(groups)]
    result, how = split_index(tmp_path / "i", images, evidence="auto", val_fraction=0.01)
    assert how.num_folds == 5
    assert {grp for *_, grp, split, _ in result if split == "val"} == {"small"}
    alone, _ = split_index(tmp_path / "j", [(0, "a" * 32, "", "g"), (1, "b" * 32, "", "g")], evidence="auto")
    assert {split for *_, split, _ in alone} == {"train"}
