"""ZIP archives, good and hostile."""

import io
import os
import stat
import zipfile

import pytest
from PIL import Image

from gapgate.errors import DataError


def png(value=0):
    data = io.BytesIO()
    Image.new("L", (6, 4), value).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def packed(data):
    def pack(members, name="set.zip"):
        with zipfile.ZipFile(data / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return data / name

    return pack


@pytest.mark.parametrize("prefix", ["", "photos/", "archive/data/"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_an_archive_of_class_folders_is_read(data, opened, packed, prefix, separator):
    names = [f"{prefix}{name}".replace("/", separator) for name in ("a/1.png", "b/1.png", "__MACOSX/a/1.png")]
    path = packed({name: png(value) for value, name in enumerate(names)})
    for source in (opened(path), opened(data)):
        assert source.class_names == ("a", "b")
        assert [source.reader.read(r.locator, 100).getpixel((0, 0)) for r in source.records()] == [0, 1]


def test_an_archive_for_each_split_is_read(data, opened, packed):
    for split in ("train", "test"):
        packed({f"{label}/1.png": png() for label in "ab"}, f"{split}.zip")
    assert [(r.split, r.label) for r in opened().records()] == [("test", 0), ("test", 1), ("train", 0), ("train", 1)]


@pytest.mark.parametrize("member", ["../../evil.png", "/tmp/evil.png", "C:\\evil.png", "a\\..\\..\\evil.png"])
def test_a_member_outside_of_the_archive_is_refused(data, opened, packed, member):
    with pytest.raises(DataError, match="which lies outside of it"):
        opened(packed({"a/1.png": png(), member: png()}))


def test_a_link_is_refused(data, opened, packed):
    link = zipfile.ZipInfo("a/1.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(DataError, match=r"holds the link 'a/1\.png'"):
        opened(packed({link: "/etc/passwd"}))


def test_a_bomb_is_refused_before_it_is_unpacked(data, opened, packed, tmp_path):
    path = packed({f"a/{number}.bmp": bytes(40_000_000) for number in range(3)})
    with pytest.raises(DataError, match="would unpack to 120,000,000 in 3 files, more than 200 times as much"):
        opened(path)
    path = packed({"images.npy": bytes(120_000_000), "labels.npy": b""}, "set.npz")
    with pytest.raises(DataError, match="more than 200 times"):
        opened(path)


def test_a_damaged_archive_is_explained(data, opened, packed):
    path = packed({f"{label}/{number}.png": os.urandom(200) for label in "ab" for number in range(20)})
    whole = path.read_bytes()
    for content in (whole[:-50], b"hello", whole[:300] + bytes(80) + whole[380:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is damaged or no archive; pack it again as a plain ZIP file"):
            opened(path)


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        ((8, 10), 9, "compression method is not supported"),  # Deflate64, as Windows packs large files
        ((8, 10), 93, "compression method is not supported"),  # Zstandard
        ((4, 6), 99, "zip file version 9.9"),
    ],
)
def test_a_way_of_packing_that_is_not_read_is_named_and_no_damage(data, opened, packed, at, value, said):
    path = packed({"a/1.png": png(), "b/1.png": png(1)})
    content = bytearray(path.read_bytes())
    # The same field in the header of each member and in its entry of the directory (APPNOTE, 4.3.7 and 4.3.12).
    for signature, place in zip((b"PK\3\4", b"PK\1\2"), at, strict=True):
        start = content.find(signature)
        while start >= 0:
            content[start + place] = value
            start = content.find(signature, start + 4)
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"cannot be read \(.*{said}.*\); pack it again as a plain ZIP file"):
        opened(path)


def test_members_that_no_disk_can_hold_are_explained(data, opened, packed):
    with pytest.raises(DataError, match="holds a file whose name is too long"):
        opened(packed({"a/1.png": png(), f"b/{'x' * 300}.png": png()}))
    with pytest.raises(DataError, match="holds a twice"):
        opened(packed({"a": b"x", "a/1.png": png()}))


def test_an_archive_in_an_archive_is_not_unpacked(data, opened, packed):
    inner = packed({f"{label}/1.png": png() for label in "ab"}, "inner.zip").read_bytes()
    with pytest.raises(DataError, match=r"outer\.zip holds the archive inner\.zip; unpack it and name the folder"):
        opened(packed({"inner.zip": inner}, "outer.zip"))


def test_other_archives_name_the_remedy(data, opened):
    for name in ("set.tar.gz", "set.rar"):
        (data / name).write_bytes(b"x")
        for path in (data / name, data):  # also where it is all that a folder holds
            with pytest.raises(DataError, match="unpack it and name the folder"):
                opened(path)


@pytest.mark.parametrize("suffix", [".zip", ".npz"])
def test_a_name_that_is_not_the_utf8_it_promises_is_one_line(data, opened, packed, suffix):
    path = packed({"été/1.png": png(), "b/1.png": png(1)}, f"set{suffix}")
    path.write_bytes(path.read_bytes().replace("été".encode(), b"\x82t\x82.."))
    with pytest.raises(DataError, match=r"set\.(zip is damaged or no archive|npz is truncated or corrupt)"):
        opened(path)
