"""Every command in the pages is run, or marked with what it needs and parsed (see `blocks`)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from cli import app
from gapgate.process import fork_server
from gapgate.settings import load
from tests.documentation.blocks import NEEDS, ROOT, Block, blocks, languages
from tests.documentation.forked import write_command

BLOCKS = blocks()
ALONE = [block for block in BLOCKS if not block.marker]
PARSED = [block for block in BLOCKS if block.need]
ELSEWHERE = [block for block in BLOCKS if block.tests]
SETTINGS = {
    "augment": {"operations": []},
    "train": {"architecture": "tutorial", "epochs": 4, "batch_size": 32, "learning_rate": 0.003},
    "evaluate": {"method": "holdout", "num_resamples": 1000},
    "gate": {"max_gap_points": 100.0, "min_test_accuracy": 0.0, "min_class_recall": 0.0, "max_ece": 1.0},
    "package": {"similar_images": 100},
}
"""A training of seconds, and a gate that lets its model through."""


FIRST = "gapgate run ./your-images\n"
"""Block that makes the champion which the others need."""


def title(block: Block) -> str:
    return f"{block.page}: {block.lines[0][:40]}"


def test_every_fence_has_a_language_and_every_block_of_commands_one_of_the_known_markers() -> None:
    for page, found in languages().items():
        assert all(found), f"{page} has a fence without a language; write bash, text, python …"
    written = sum(language in {"bash", "sh", "console"} for found in languages().values() for language in found)
    assert written == len(BLOCKS) == len(ALONE) + len(PARSED) + len(ELSEWHERE)
    assert {block.need for block in PARSED} == set(NEEDS)
    assert len(ALONE) >= 8
    assert FIRST in {block.text for block in ALONE}


@pytest.mark.parametrize("block", PARSED, ids=title)
def test_a_block_that_cannot_be_run_here_is_well_formed(block: Block) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for _, *words in block.calls("make"):
        named = [word for word in words if "=" not in word and not word.startswith("-")]
        assert set(named) <= targets
    for _, *words in block.calls("gapgate"):
        parse(words)


@pytest.mark.parametrize("block", ELSEWHERE, ids=title)
def test_the_tests_that_run_a_block_are_there_and_call_its_commands(block: Block) -> None:
    files = ""
    for named in block.tests:
        file, _, function = named.partition("::")
        text = (ROOT / "tests" / file).read_text()
        assert f"def {function}(" in text, named
        files += text
    for program, *words in block.calls("gapgate", "dvc"):
        if program == "gapgate":
            parse(words)
        assert f'"{words[0]}"' in files or f".{words[0]}(" in files or f" {words[0]} " in files, f"{program} {words[0]}"


def parse(words: list[str]) -> None:
    """Parse a command line of `gapgate` with its settings; a mistake raises what a user is shown."""
    group: Any = typer.main.get_command(app)
    context, name = typer.Context(group, info_name="gapgate"), "gapgate"
    while hasattr(group, "commands") and words and not words[0].startswith("-"):
        assert words[0] in group.commands, f"{name} {words[0]}"
        name, group, words = f"{name} {words[0]}", group.commands[words[0]], words[1:]
    if {"--help", "--version"} & set(words):
        return
    parsed = group.make_context(name, list(words), parent=context).params
    changed = [*(parsed.get("overrides") or []), *(over.partition(",")[0] for over in parsed.get("over") or [])]
    if changed or parsed.get("params"):
        load(ROOT / (parsed.get("params") or "params.yaml"), changed)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A folder as a user has it after the demo: a champion, folders of images, one image, a git and DVC repository."""
    if not fork_server.is_there():
        pytest.skip("the commands in the pages are not run: this system has no fork server")
    folder = tmp_path_factory.mktemp("sandbox")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in {"BROWSER": "true", "PYTHONUTF8": "1", "PATH": os.environ["PATH"], "COLUMNS": "120"}.items():
            patch.setenv(name, value)
        for name in ("GAPGATE_HOME", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        write_command(folder / ".venv" / "bin")
        (folder / "params.yaml").write_text(yaml.safe_dump(SETTINGS))
        (folder / ".gapgate").mkdir()
        shutil.copyfile(empty_store, folder / ".gapgate" / "mlflow.db")
        write_images(folder / "your-images")
        shutil.copytree(folder / "your-images", folder / "photos")
        shutil.copyfile(next((folder / "photos" / "zero").iterdir()), folder / "cat.png")
        subprocess.run(["git", "init", "--quiet"], check=True)
        shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
        done = run(FIRST)
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder


def write_images(folder: Path) -> None:
    """40 of scikit-learn's digits of each of two classes, as files of ten patients, and a table of them beside it."""
    digits = load_digits(n_class=2)
    rows = ["path,label,group"]
    for label, name in enumerate(("zero", "one")):
        (folder / name).mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == label][:40]):
            path = folder / name / f"patient{number // 4}_{number}.png"
            Image.fromarray((pixels * (255 / 16)).astype("uint8")).save(path)
            rows.append(f"{path.relative_to(folder.parent)},{name},patient{number // 4}")
    (folder.parent / "labels.csv").write_text("\n".join(rows) + "\n")


@cache
def run(text: str) -> subprocess.CompletedProcess[str]:
    """What a shell does with a block; one that stands in several pages is run once."""
    return subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("block", ALONE, ids=title)
def test_a_block_does_what_the_page_says(block: Block, sandbox: Path) -> None:
    done = run(block.text)
    assert done.returncode == 0, f"{block.page}\n{block.text}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
