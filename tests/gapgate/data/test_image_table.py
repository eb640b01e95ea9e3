"""The table of images of one preprocess run."""

import pytest

from gapgate.data import image_table
from gapgate.data.decoding import Decoded
from gapgate.data.image_table import Index
from gapgate.data.sources import Record
from gapgate.errors import DataError


@pytest.fixture
def index(tmp_path):
    opened = Index(tmp_path / "index.sqlite")
    yield opened
    opened.close()


def records(*names):
    return [Record(name, n, "", f"g{n}", f"at {name}") for n, name in enumerate(names)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_every_image_is_a_job_once_in_order_while_results_are_stored(index, monkeypatch, count):
    monkeypatch.setattr(image_table, "BATCH", 2)
    assert index.fill(records(*(f"i{n}" for n in range(count)))) == count
    found = []
    for row, locator in index.jobs():
        found.append((row, locator))
        index.store([Decoded(row, f"h{row}", 8, 6, (1,), (1,), "")])
    assert found == [(n, f"at i{n}") for n in range(count)]
    assert index.one("SELECT COUNT(*) FROM images WHERE hash = 'h' || row") == count
    query = "SELECT row, label, grp FROM images WHERE row <> ? ORDER BY row"
    batches = list(index.batches(query, 1))
    assert [len(batch) for batch in batches if len(batch) != 2] in ([], [1])
    rows = [(n, n, f"g{n}") for n in range(count) if n != 1]
    assert [line for batch in batches for line in batch] == list(index.lines(query, 1)) == rows


def test_results_are_stored_in_their_own_columns_and_a_reason_sets_an_image_aside(index):
    index.fill(records("a", "b", "c"))
    index.store(
        [
            Decoded(2, "h2", 30, 20, (1, 2, 3), (4, 5, 6), "", "PNG"),
            Decoded(0, "h0", 3, 2, (7,), (8,), ""),
            Decoded(1, None, None, None, (), (), "truncated"),
        ]
    )
    columns = "hash, width, height, sum0, sum1, sum2, square0, square1, square2, form, reason, split"
    assert list(index.lines(f"SELECT {columns} FROM images ORDER BY row")) == [
        ("h0", 3, 2, 7, None, None, 8, None, None, "", "", None),
        (None, None, None, None, None, None, None, None, None, "", "truncated", "quarantined"),
        ("h2", 30, 20, 1, 2, 3, 4, 5, 6, "PNG", "", None),
    ]


def test_ids_that_occur_more_than_once_are_counted_and_the_first_of_them_is_named(index):
    with pytest.raises(DataError, match=r"^2 ids occur more than once, first z; give each image its own id$"):
        index.fill(records("a", "z", "b", "b", "z", "c", "b", "z"))
