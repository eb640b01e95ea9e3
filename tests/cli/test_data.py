"""`gapgate data`, as a user calls it, in a real DVC repository."""

import pytest
from dvc.repo import Repo

from cli import app
from gapgate.errors import DataError
from tests.pipelines.kubeflow.cluster_calls import git


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Twelve files in each of two class folders, beside an empty repository, which is the current folder."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init")
    Repo.init(str(root)).close()
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("a", "b"):
        (tmp_path / "source" / name).mkdir(parents=True)
        for number in range(12):
            (tmp_path / "source" / name / f"{number:02}.png").write_text(f"{name}{number}")
    return tmp_path / "source"


def gapgate(capsys, *arguments):
    code = app(["data", *map(str, arguments)], standalone_mode=False) or 0
    return code, capsys.readouterr().out


def test_status_lists_what_restore_would_delete_and_bring_back(source, capsys):
    gapgate(capsys, "add", source)
    for file in source.parent.glob("repository/data/a/*"):
        file.unlink()
    (source.parent / "repository/data/b/[red]\x1b[31m.png").write_text("new")
    code, out = gapgate(capsys, "status")
    assert code == 1
    assert out.splitlines()[1:] == [
        "added    b/[red]\\x1b[31m.png",
        *(f"gone     a/{number:02}.png" for number in range(10)),
        "gone     2 more",
        "`gapgate data add data` pins it as it is, `gapgate data restore` brings the pinned files back",
    ]
    for command in (("restore",), ("add", source)):
        with pytest.raises(DataError, match=r"lost, since nothing pins them: b/\[red\]\\x1b\[31m\.png; .* --force"):
            gapgate(capsys, *command)
        assert gapgate(capsys, "status")[1] == out
    assert gapgate(capsys, "restore", "--force")[1].startswith("data/ is as pinned: 24 files")
    assert gapgate(capsys, "status")[0] == 0


def test_status_says_how_to_get_a_list_to_compare_with(source, capsys):
    gapgate(capsys, "add", source)
    (source.parent / "repository/data/a/00.png").unlink()
    (listing,) = source.parent.rglob("*.dir")
    listing.unlink()
    assert "DVC's cache has no list of the pinned files to compare with" in gapgate(capsys, "status")[1]


def test_show_names_the_files_as_the_user_did(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "t.csv").write_text("photo,finding\n1.png,a\n")
    monkeypatch.chdir(tmp_path)
    for source in ("mine", "mine/t.csv"):
        with pytest.raises(DataError, match=r"^mine/t\.csv has no column label"):
            gapgate(capsys, "show", source)


def test_a_url_is_no_source_and_its_password_is_not_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"^https://\*\*\*@example\.org/x\.zip is a URL; download the data and name the"
    ):
        gapgate(capsys, "show", "https://me:secret@example.org/x.zip")
