"""MkDocs hooks: pages of the repository that lie outside docs/, and links as GitHub has them.

Every page is written for GitHub, where a link is relative to the file. Here a link to another page of the site becomes
one within the site, whose heading MkDocs checks; a link to any other file becomes one to the repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"} | {
    "bench/RESULTS.md": "benchmarks.md"
}
"""Page of the repository → its name in the site."""
STYLES = "site.css"
"""Styles beside this file, and their name in the site."""
_FENCE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
_LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")
_LONG_NAME = re.compile(r"(?<=<code>)[^<]{40,}(?=</code>)")
_BREAK = re.compile(r"(?<=[_/:])(?=\w)")
"""Places where a long name may be broken: after an underscore, a slash or a colon."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the styles outside docs/."""
    for source, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    files.append(File.generated(config, STYLES, content=Path(__file__).with_name(STYLES).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Turn the links of a page into those of the site."""
    name = page.file.src_uri
    source = next((source for source, named in OUTSIDE.items() if named == name), f"docs/{name}")

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        found = (ROOT / source).parent.joinpath(target).resolve()
        if not found.exists():
            raise PluginError(f"{source}: {target} is not there")
        path = found.relative_to(ROOT).as_posix()
        within = OUTSIDE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
        if within:
            return os.path.relpath(within, Path(name).parent) + anchor
        return f"{config.extra['repository']}/{'tree' if found.is_dir() else 'blob'}/main/{path}{anchor}"

    # Code is left as it is: a fence's brackets are no links.
    between, fences = _FENCE.split(markdown), [*_FENCE.findall(markdown), ""]
    return "".join(_LINK.sub(link, text) + fence for text, fence in zip(between, fences, strict=True))


def on_page_content(html: str, **_: Any) -> str:
    """Let long names in code break between their words, and nowhere else."""
    return _LONG_NAME.sub(lambda match: _BREAK.sub("<wbr>", match[0]), html)
