"""Groups that a data set does not name: series by name, bursts by time, and their joining."""

from datetime import datetime, timedelta

import pytest
from PIL import ExifTags, Image

from gapgate.data.leaks import groups
from gapgate.errors import SettingsError

NOON = datetime(2026, 5, 1, 12)


def rows(names):
    return list(enumerate(names))


def test_frames_of_one_video_are_one_group():
    names = [f"cat/clip{video}_frame{frame:04d}.png" for video in "abcdef" for frame in range(0, 90, 30)]
    found = groups.series(rows(names))
    assert len(found) == len(names)
    assert {found[row] for row in range(3)} == {"cat/clipa_frame"}
    assert len(set(found.values())) == 6


@pytest.mark.parametrize(
    "names",
    [
        [f"cat/cat.{n}.jpg" for n in range(50)],  # one stem: the class
        [f"cat/{kind}_{n * 977:06d}.png" for kind in "abcdef" for n in range(5)],  # numbers of a catalogue
        [f"cat/{n:09d}.jpg" for n in range(50)],  # no stem
    ],
)
def test_names_that_only_count_make_no_group(names):
    assert groups.series(rows(names)) == {}


def test_photos_of_one_camera_within_seconds_are_a_burst():
    shots = {
        0: groups.Shot("A", NOON + timedelta(seconds=8)),
        1: groups.Shot("A", NOON),
        2: groups.Shot("A", NOON + timedelta(seconds=4)),
        3: groups.Shot("B", NOON + timedelta(seconds=2)),
        4: groups.Shot("A", NOON + timedelta(seconds=14)),
    }
    found = groups.bursts(shots)
    assert set(found) == {0, 1, 2}
    assert set(found.values()) == {"A 2026-05-01 12:00:00"}


def test_camera_and_time_are_read_from_the_file(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "X100"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:05:01 12:00:00"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_bytes(b"no image")
    assert dict(groups.read_shots(tmp_path, rows(["a.jpg", "b.jpg", "c.jpg"]))) == {0: groups.Shot("X100", NOON)}


def test_a_rule_names_the_group():
    found = groups.named(rows(["x/p1_a.png", "y/p1_b.png", "y/p2.png", "y/q.png"]), r"(p\d+)")
    assert found == {0: "p1", 1: "p1", 2: "p2"}


def test_an_image_in_whose_name_the_rule_finds_no_group_stands_alone():
    assert groups.named(rows(["p1_a.png", "p1_b.png", "x.png", "y.png"]), r"(p\d+)?") == {0: "p1", 1: "p1"}


def test_a_rule_that_matches_no_image_is_told_with_one_of_them():
    with pytest.raises(SettingsError, match=r"matches no image, such as cat/p1_a\.png; mend it"):
        groups.named(rows(["cat/p1_a.png", "cat/p2.png"]), r"^(p\d+)")
    assert groups.named([], r"^(p\d+)") == {}  # all images have the source's own groups


def test_columns_that_look_like_groups_are_offered():
    assert groups.group_columns(["path", "label", "patient_id", "Video", "siteName", "age", "grouping"]) == [
        "patient_id",
        "Video",
        "siteName",
    ]


def test_groups_that_share_an_image_become_one():
    members = [(0, "series a"), (1, "series a"), (1, "shots t"), (2, "shots t"), (3, "series b")]
    found = groups.merged(members, [(4, 5), (2, 6)], "{:032x}".format)
    assert {found[row] for row in (0, 1, 2, 6)} == {"series a"}
    assert found[3] == "series b"
    assert found[4] == found[5] == f"{4:032x}"


def test_images_that_are_numbered_through_are_no_series():
    assert groups.series((number, f"cat/{number}.jpg") for number in range(300)) == {}
    assert groups.series((number, f"cat/{number:06d}.jpg") for number in range(300)) == {}
