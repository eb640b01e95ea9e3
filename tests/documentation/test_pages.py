"""The documents name only what there is: files and headings, make targets, commands and settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

import gapgate
from cli import app
from gapgate.settings.sections import Settings
from tests.screenshots import MAX_BYTES

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "bench/*.md", ".github/**/*.md") for page in ROOT.glob(pattern)
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
_CODE = re.compile(r"`([^`\n]+)`")
_MAKE = re.compile(r"(?:^ *|\$\()make(?: -\w)? ([a-z]+)", re.M)
_COMMAND = re.compile(r"^ *(?:\.venv/bin/)?gapgate ([a-z]+)(?: +([a-z]+))?", re.M)
_SETTING = re.compile(rf"(?<![\w./-])({'|'.join(Settings.model_fields)})((?:\.\w+)+)")
_SUFFIXES = {".bento", ".csv", ".dvc", ".json", ".npy", ".py"}
_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+\.(?:py|yaml|md|js|sh|lock)")


def test_there_are_pages() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/glossary.md"} <= {str(page.relative_to(ROOT)) for page in PAGES}


@each_page
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in set(anchors(file.read_text())), f"{page.name}: {target}"


@each_page
def test_every_make_target_that_is_named_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for text in code(page):
        for named in _MAKE.findall(text):
            assert named in targets, f"{page.name}: make {named}"


@each_page
def test_every_command_that_is_named_is_there(page: Path) -> None:
    commands = named_commands()
    for text in code(page):
        for name, word in _COMMAND.findall(text):
            assert name in commands, f"{page.name}: gapgate {name}"
            if commands[name]:
                assert word in {"", *commands[name]}, f"{page.name}: gapgate {name} {word}"


@each_page
def test_every_setting_that_is_named_is_in_params_yaml(page: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for text in code(page):
        for section, path in _SETTING.findall(text):
            if path not in _SUFFIXES:  # data.dvc and train.csv are files
                assert path.split(".")[1] in params[section], f"{page.name}: {section}{path}"


@each_page
def test_every_path_that_is_named_is_there(page: Path) -> None:
    tops = {path.name for path in ROOT.iterdir()}
    for text in _CODE.findall(_FENCE.sub("", page.read_text())):
        if _PATH.fullmatch(text) and text.split("/")[0] in tops:
            assert (ROOT / text).exists(), f"{page.name}: {text}"


@each_page
def test_every_module_that_is_to_be_run_is_there(page: Path) -> None:
    for text in code(page):
        for module in re.findall(r"python -m ([\w.]+)", text):
            path = ROOT.joinpath(*module.split("."))
            is_ours = (ROOT / module.split(".")[0]).is_dir()
            assert not is_ours or path.with_suffix(".py").exists() or path.is_dir(), f"{page.name}: {module}"


def test_the_map_of_folders_is_whole() -> None:
    table = (ROOT / "README.md").read_text().partition("| folder | what |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)(/?)`", line) for line in table.splitlines()]
    named = [name for row in rows for name, slash in row if slash]
    sources = re.search(r"^SOURCES := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert sources
    assert {*sources[1].split(), "docs", "infra", "recipes"} <= set(named)
    for row in rows:
        for name, slash in row:
            assert (ROOT / (name if slash else f"{row[0][0]}/{name}")).is_dir(), name


def test_the_readme_is_short_and_the_first_command_comes_soon() -> None:
    readme = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text())  # what nobody is shown
    assert len(readme.split()) <= 1000
    assert len(readme.partition("\nmake demo\n")[0].split()) <= 120
    assert "make demo" in readme
    assert "`make test`" in readme


def test_the_page_for_a_model_that_did_not_pass_is_short() -> None:
    assert len((ROOT / "docs/your-model-did-not-pass.md").read_text().split()) <= 400


def test_every_promise_names_a_test_that_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs/reliability.md").read_text())
    assert len(named) >= 15
    for file, function in named:
        assert f"def {function}(" in (ROOT / "tests" / file).read_text(), function


def test_every_page_in_docs_is_reached_from_the_readme() -> None:
    seen, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = (target.partition("#")[0] for target in _LINK.findall(_FENCE.sub("", page.read_text())))
        ahead += [(page.parent / link).resolve() for link in links if link and "://" not in link]
    assert set((ROOT / "docs").rglob("*.md")) <= seen


def test_the_pictures_are_small_together_and_each_is_described_on_a_page() -> None:
    pictures = sorted((ROOT / "docs/images").iterdir())
    assert {"terminal.png", "report.png", "mlflow.png", "page.png"} <= {picture.name for picture in pictures}
    assert sum(picture.stat().st_size for picture in pictures) <= MAX_BYTES
    shown = [match for page in PAGES for match in _PICTURE.findall(page.read_text())]
    assert {Path(target).name for _, target in shown} == {picture.name for picture in pictures}
    assert all(len(words.split()) >= 5 for words, _ in shown)


def test_the_version_is_one_and_has_its_changes() -> None:
    assert f'version = "{gapgate.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## [{gapgate.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    manifests = [*(ROOT / "infra/kubernetes").rglob("*.yaml")]
    tags = {tag for file in manifests for tag in re.findall(r"gapgate/\w+(?::|.*newTag: )([\d.]+\d)", file.read_text())}
    assert tags == {gapgate.__version__}


def test_the_workflow_runs_the_commands_of_the_readme() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())["jobs"]["make"]
    assert job["strategy"]["matrix"]["target"] == ["demo", "test"]
    assert job["steps"][-1]["run"] == "make ${{ matrix.target }}"


def anchors(text: str) -> Iterator[str]:
    """The anchors that GitHub gives to the headings of a page."""
    for heading in re.findall(r"^#+ +(.+?) *$", _FENCE.sub("", text), re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        yield re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def code(page: Path) -> list[str]:
    """The code of a page: whole blocks, and what stands between backticks."""
    text = page.read_text()
    return [*_FENCE.findall(text), *_CODE.findall(_FENCE.sub("", text))]


def named_commands() -> dict[str, set[str]]:
    """Each command of the command line → its subcommands; none for a plain command."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return {name: set(getattr(command, "commands", ())) for name, command in group.commands.items()}
