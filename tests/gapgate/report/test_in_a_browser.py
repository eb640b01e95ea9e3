"""The report in a browser: accessibility by axe-core, a phone, print, the dark scheme, and what its script adds."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gapgate.settings.sections import GateSettings
from tests.gapgate.report.test_html import evaluation_dir, rendered  # noqa: F401  (a fixture)
from tests.serving.browsing import CHROMIUM, playwright

AXE = "axe-core@4.10.3"


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Source of axe-core, which npm fetches."""
    folder = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("accessibility is not tested: npm, which fetches axe-core, is not installed")
    packed = subprocess.run(
        [npm, "pack", AXE, "--silent", "--pack-destination", str(folder)], capture_output=True, text=True, timeout=60
    )
    if packed.returncode != 0:
        pytest.skip(f"accessibility is not tested: npm cannot fetch {AXE}: {packed.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("the report is not tested in a browser: no Chromium")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(evaluation_dir: Path) -> Path:  # noqa: F811
    path = evaluation_dir.parent / "report.html"
    path.write_text(rendered(evaluation_dir, GateSettings(max_gap_points=0.1)))
    return path


@pytest.fixture
def open_report(browser: Any, report: Path) -> Iterator[Any]:
    contexts = []

    def opened(**options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.failures = []
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        page.on("console", lambda message: page.failures.append(message.text))
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, axe: str, browser: Any, report: Path) -> None:
    # The page's policy lets no other script run, so this context leaves it aside.
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(report.as_uri())
    page.add_script_tag(content=axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    context.close()
    assert len(found["passes"]) > 15
    assert [(each["id"], each["nodes"][0]["html"], len(each["nodes"])) for each in found["violations"]] == []


@pytest.mark.parametrize("width", [390, 320])
def test_nothing_is_cut_on_a_phone_and_charts_stack(width: int, open_report: Any) -> None:
    page = open_report(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(n => n.checkVisibility() && !n.closest('svg')"
        " && n.getBoundingClientRect().right > innerWidth + 1).map(n => n.outerHTML.slice(0, 80))"
    )
    assert cut == []
    loss, accuracy = page.locator("#learning-curves svg").all()
    assert accuracy.bounding_box()["y"] >= loss.bounding_box()["y"] + loss.bounding_box()["height"]


def test_a_dark_page_has_no_white_block(open_report: Any) -> None:
    page = open_report(color_scheme="dark")
    white = page.evaluate(
        "[...document.querySelectorAll('*')].map(n => getComputedStyle(n).backgroundColor)"
        ".filter(colour => colour === 'rgb(255, 255, 255)').length"
    )
    assert white == 0


def test_print_opens_the_folds_without_scripts_too_and_leaves_out_what_is_for_a_screen(
    open_report: Any, tmp_path: Path
) -> None:
    page = open_report(java_script_enabled=False)
    folded = page.locator("details:not([open]) th").first
    height = "(node) => node.getBoundingClientRect().height"
    assert not folded.is_visible()
    page.emulate_media(media="print")
    assert folded.evaluate(height) > 0
    assert folded.is_visible()
    assert not page.locator("nav.contents").is_visible()
    assert "@top-left" in page.content()


def test_a_class_filter_hides_the_mistakes_of_other_classes_and_a_link_brings_them_back(open_report: Any) -> None:
    page = open_report()
    groups = page.locator("#errors .pair")
    chosen = groups.first.get_attribute("data-classes").split()[0]
    page.locator("#class-filter").select_option(chosen)
    shown = [each.get_attribute("data-classes") for each in groups.all() if each.is_visible()]
    assert shown
    assert all(chosen in classes.split() for classes in shown)
    others = [each for each in groups.all() if chosen not in each.get_attribute("data-classes").split()]
    target = others[0].get_attribute("id")
    page.locator(f"#confusion a[href='#{target}']").click()
    playwright.expect(page.locator(f"#{target}")).to_be_visible()
    assert page.failures == []


def test_a_mark_tells_its_figures(open_report: Any) -> None:
    page = open_report()
    page.locator("#learning-curves circle").first.hover()
    playwright.expect(page.locator("#tip")).to_contain_text("epoch 1: loss")


def test_without_scripts_every_figure_and_image_is_there(open_report: Any) -> None:
    page = open_report(java_script_enabled=False)
    assert page.locator("#class-filter").is_hidden()
    link = page.locator("#confusion a").first
    link.click()
    assert page.locator(link.get_attribute("href")).is_visible()
