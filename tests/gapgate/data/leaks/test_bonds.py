"""Which images stay together: groups of the source, series, bursts and near-duplicates."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from gapgate.data.decoding import Decoded
from gapgate.data.image_table import Index
from gapgate.data.leaks import bonds
from gapgate.data.leaks.bonds import Bonds, bind
from gapgate.data.sources import Record
from gapgate.data.sources.arrays import ArrayReader
from gapgate.data.sources.base import FileReader


@pytest.fixture
def bound(tmp_path, monkeypatch):
    """Binds images with these ids; returns the summary, the bond of each row, and the pairs of the table `near`."""
    opened = []

    def made(ids, rule="auto", groups=(), pairs=(), hashes=(), reader=None, unread=()):
        index = Index(tmp_path / f"{len(opened)}.sqlite")
        opened.append(index)
        groups = dict(enumerate(groups)) if not isinstance(groups, dict) else groups
        index.fill(Record(name, 0, "", groups.get(row, ""), name) for row, name in enumerate(ids))
        index.store(
            Decoded(row, None, None, None, (), (), "truncated")
            if row in unread
            else Decoded(row, dict(enumerate(hashes)).get(row, f"{row:032x}"), 8, 8, (1,), (1,), "")
            for row in range(len(ids))
        )
        np.save(tmp_path / "images.npy", np.zeros((len(ids), 8, 8, 1), np.uint8))
        made.compared = None

        def near_pairs(images, rows):
            made.compared = rows.tolist()
            return np.array(pairs, np.int64).reshape(-1, 2)

        monkeypatch.setattr(bonds, "near_pairs", near_pairs)
        how = bind(index, reader or ArrayReader(()), tmp_path / "images.npy", rule)
        return how, dict(index.lines("SELECT row, bond FROM images")), set(index.lines("SELECT one, other FROM near"))

    yield made
    for index in opened:
        index.close()


FRAMES = [f"cat/clip{video}_{frame}.jpg" for video in "abcdef" for frame in range(3)]


@pytest.fixture
def burst(tmp_path):
    """Three photos: two that one camera took within a second, and one of an hour later."""
    for name, time in (("x", "12:00:00"), ("y", "12:00:01"), ("z", "13:00:00")):
        exif = Image.Exif()
        exif[ExifTags.Base.Model] = "X100"
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"2026:05:01 {time}"
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.jpg", exif=exif)
    return FileReader(tmp_path)


def test_frames_of_a_video_and_photos_of_a_burst_are_bound_and_counted(bound, burst):
    how, found, _ = bound([*FRAMES, "x.jpg", "y.jpg", "z.jpg"], reader=burst)
    assert how == Bonds(in_series=18, in_bursts=2, near_pairs=0)
    assert [found[row] for row in range(18)] == [f"series cat/clip{video}_" for video in "abcdef" for _ in range(3)]
    assert [found[row] for row in (18, 19, 20)] == ["shots X100 2026-05-01 12:00:00"] * 2 + [None]


def test_a_rule_of_the_user_stands_for_series_and_bursts(bound, burst):
    how, found, _ = bound(["x.jpg", "y.jpg", "z.jpg", *FRAMES], rule="clip[ab]", reader=burst)
    assert how == Bonds(in_series=6, in_bursts=0, near_pairs=0)
    assert [found[row] for row in range(3)] == [None] * 3
    assert [found[row] for row in range(3, 21)] == ["series clipa"] * 3 + ["series clipb"] * 3 + [None] * 12


def test_without_a_rule_nothing_is_looked_for(bound, burst):
    how, found, near = bound([*FRAMES, "x.jpg", "y.jpg"], rule="none", reader=burst, pairs=[(0, 5)], groups={0: "p"})
    assert how == Bonds(0, 0, None)
    assert set(found.values()) == {None}
    assert near == set()


def test_a_group_of_the_source_counts_before_the_name_of_a_file(bound):
    how, found, _ = bound(FRAMES, groups={0: "p1", 17: "p1"})
    assert how.in_series == 16
    assert (found[0], found[17]) == ("group p1", "group p1")
    assert (found[1], found[16]) == ("series cat/clipa_", "series cat/clipf_")


def test_near_duplicates_join_what_they_tie_and_are_kept_in_both_orders(bound):
    how, found, near = bound([f"{row}.png" for row in range(9)], pairs=[(1, 4), (2, 3)], groups={4: "p", 5: "p"})
    assert how == Bonds(0, 0, 2)
    assert near == {(1, 4), (4, 1), (2, 3), (3, 2)}
    assert [found[row] for row in (1, 4, 5)] == ["group p"] * 3
    assert found[2] == found[3] == f"{2:032x}"
    assert {found[row] for row in (0, 6, 7, 8)} == {None}


@pytest.mark.parametrize(("num_images", "is_tied"), [(8, True), (7, False)])
def test_near_duplicates_tie_groups_together_up_to_a_half_of_all_images(bound, num_images, is_tied):
    # Two groups of two, with a pair between them; two further images are a pair of their own.
    groups = dict(enumerate(["p", "p", "q", "q"]))
    how, found, near = bound([f"{row}.png" for row in range(num_images)], groups=groups, pairs=[(1, 2), (4, 5)])
    assert found[0] == found[1]
    assert (found[1] == found[2]) == is_tied
    assert found[4] == found[5] == f"{4:032x}"
    assert (how.near_pairs, len(near)) == (2, 4)


def test_images_are_compared_once_for_each_content_and_only_where_they_were_read(bound):
    bound([f"{row}.png" for row in range(6)], hashes=["a", "b", "a", "c"], unread=[5])
    assert bound.compared == [0, 1, 3, 4]


@pytest.mark.parametrize(("num_images", "is_compared"), [(3, True), (4, False)])
def test_more_images_than_can_be_compared_are_not(bound, monkeypatch, num_images, is_compared):
    monkeypatch.setattr(bonds, "MAX_COMPARED", 3)
    how, _, _ = bound([f"{row}.png" for row in range(num_images)])
    assert (bound.compared is not None) == is_compared
    assert how.near_pairs == (0 if is_compared else None)


def test_a_few_copies_stay_together_and_a_set_where_all_look_alike_is_not_one_group():
    copies = [(0, 1), (1, 2)]
    chain = [(row, row + 1) for row in range(100, 100 + bonds.MAX_ALIKE)]
    assert bonds._without_chains([*copies, *chain]) == copies
    assert bonds._without_chains(chain[1:]) == chain[1:]  # as many as are allowed
