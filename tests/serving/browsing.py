"""What the tests of the page share: the browser, and ways to read and to steer a page."""

from __future__ import annotations

import shutil
from typing import Any

import httpx
import pytest

from serving.run import Server

playwright = pytest.importorskip("playwright.sync_api", reason="the page is not tested: playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# All visible text whose contrast with its background is below 4.5 (WCAG 2.2, success criterion 1.4.3).
FAINT_TEXT = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (node) => {
    for (; node; node = node.parentElement) {
      const found = channels(getComputedStyle(node).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = [];
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.closest("noscript")) continue;
    const [a, b] = [channels(getComputedStyle(node).color), background(node)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push([texts.currentNode.data.trim(), ratio]);
  }
  return faint;
}"""


def predicted(server: Server, data: bytes) -> dict[str, Any]:
    response = httpx.post(f"{server.url}/v1/predict", content=data, headers={"content-type": "image/png"})
    answer: dict[str, Any] = response.json()
    return answer


def wait_for_answers(page: Any) -> None:
    """Until every section is filled."""
    page.wait_for_selector(".heat img")
    page.wait_for_selector(".chain li")
    playwright.expect(page.locator("[aria-busy=true]")).to_have_count(0)


def focus_is_visible(page: Any) -> bool:
    """Whether the focused element, or the label that stands for it, has an outline."""
    outlined = "(node) => node && getComputedStyle(node).outlineStyle !== 'none'"
    visible: bool = page.evaluate(
        f"() => [document.activeElement, document.activeElement.nextElementSibling].some({outlined})"
    )
    return visible


def tab_to(page: Any, selector: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        assert focus_is_visible(page)
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"Tab does not reach {selector}")
