"""The pictures of the documentation, of one real run: `make screenshots` writes them into docs/images.

A clone of this repository runs `make demo` in a terminal (tmux); Chromium then shows that terminal, the run's report,
the run in MLflow and the page of the prediction service. Where KF_PIPELINES_ENDPOINT names a cluster's Kubeflow
Pipelines, it shows its newest runs there too, one that passed and one that the gate stopped;
`python -m tests.screenshots cluster` takes these alone.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from gapgate.process import child_server

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 2 * 2**20
"""Most bytes of all pictures together."""
COLUMNS, LINES = 100, 120
_INSTALLED = [f"-o {name}" for name in ("requirements.lock", "runtime.lock", "pyproject.toml")]
"""What tells make that the clone's packages, which are those of this folder, are not older than these files."""
_TERMINAL = """<pre style="display:inline-block;margin:0;padding:20px 24px;font:15px/1.35 monospace;
color:{foreground};background:{background}">{code}</pre>"""


def main(arguments: list[str]) -> int:
    """Make all pictures, or with `cluster` those of Kubeflow Pipelines alone; returns the exit code."""
    of_cluster = bool(os.environ.get("KF_PIPELINES_ENDPOINT"))
    if arguments not in ([], ["cluster"]) or (arguments and not of_cluster):
        print("error: the one argument is `cluster`, which needs KF_PIPELINES_ENDPOINT", file=sys.stderr)
        return 2
    missing = [name for name in ("git", "make", "tmux") if not shutil.which(name)]
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if missing or not chromium:
        print(f"error: install {', '.join([*missing, *([] if chromium else ['chromium'])])}", file=sys.stderr)
        return 2
    from playwright.sync_api import sync_playwright

    IMAGES.mkdir(exist_ok=True)
    with ExitStack() as stack:
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        stack.callback(browser.close)

        def page(width: int, height: int) -> Any:
            opened = browser.new_page(viewport={"width": width, "height": height})
            opened.set_default_timeout(120_000)
            return opened

        if not arguments:
            _take_those_of_a_run(page, stack)
        if of_cluster:
            _take_those_of_the_cluster(page)
    return _report_sizes()


def _take_those_of_a_run(page: Callable[[int, int], Any], stack: ExitStack) -> None:
    clone = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "gapgate"
    said = _demo(clone)
    _picture(page(1000, 800), "terminal", _show_terminal(said), of="pre")
    (report,) = clone.glob(".gapgate/runs/*/report.html")
    _picture(page(1200, 1000), "report", lambda shown: shown.goto(report.as_uri()))
    mlflow = stack.enter_context(_Started(clone, "ui", r"MLflow at (\S+)"))
    _picture(page(1440, 1000), "mlflow", _show_run(clone, mlflow.partition("/#")[0]))
    served = stack.enter_context(_Started(clone, "serve", r"(http://127\.0\.0\.1:\d+)"))
    _picture(page(1200, 1000), "page", lambda shown: _show_answer(shown, served))


def _take_those_of_the_cluster(page: Callable[[int, int], Any]) -> None:
    from pipelines.kubeflow.client import Kfp
    from pipelines.kubeflow.connection import Access
    from pipelines.kubeflow.run_status import verdict_of

    kfp = Kfp(Access(os.environ["KF_PIPELINES_ENDPOINT"]))
    for verdict, name, artifact in (
        ("pass", "kubeflow-report", "report"),
        ("not passed", "kubeflow-verdict", "verdict"),
    ):
        run = next((one for one in kfp.runs() if verdict_of(one) == verdict), None)
        if run is None:
            raise SystemExit(f"{kfp.host} has no run with the verdict {verdict}")
        _picture(page(1280, 900), name, _show_in_kfp(kfp.run_url(run.run_id), artifact))


def _show_in_kfp(url: str, artifact: str) -> Callable[[Any], None]:
    def show(page: Any) -> None:
        page.goto(url)
        box = page.locator(f"[data-id='artifact.gate.{artifact}']")
        box.get_by_test_id("artifact-icon-live").wait_for(state="attached")  # the artifact is known by now
        page.mouse.move(700, 700)
        page.mouse.down()
        page.mouse.move(260, 620, steps=10)  # the gate's boxes, to the left of what opens at the right
        page.mouse.up()
        box.dispatch_event("click")
        page.get_by_role("button", name="Visualization").click()
        page.get_by_text("Static").first.wait_for()
        page.wait_for_timeout(5000)  # the report in its frame

    return show


def _demo(clone: Path) -> str:
    """Clone the repository, run `make demo` in a terminal there, and return what the terminal then shows."""
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    for folder in (".venv", ".uv"):
        if (ROOT / folder).exists():
            (clone / folder).symlink_to((ROOT / folder).resolve())
    unset = ("GAPGATE_HOME", "MLFLOW_TRACKING_URI", "NO_COLOR", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPATH": str(clone), "TMUX_TMPDIR": str(clone.parent), "LOGNAME": "you"}
    tmux = ["tmux", "-f", os.devnull, "-L", "screenshots"]
    ended = clone.parent / "ended"
    command = f"printf '$ make demo\\n'; make -s {' '.join(_INSTALLED)} demo; echo $? > {ended}; sleep 600"
    size = ("-x", str(COLUMNS), "-y", str(LINES))
    subprocess.run([*tmux, "new-session", "-d", *size, command], cwd=clone, env=environment, check=True)
    try:
        while not ended.exists():
            time.sleep(1)
        shown = subprocess.run([*tmux, "capture-pane", "-p", "-e"], env=environment, capture_output=True, text=True)
    finally:
        subprocess.run([*tmux, "kill-server"], env=environment, check=False)
    if ended.read_text().strip() != "0":
        raise SystemExit(f"make demo failed:\n{shown.stdout}")
    return shown.stdout.rstrip()


def _show_terminal(said: str) -> Callable[[Any], None]:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(said), soft_wrap=True)
    html = console.export_html(theme=MONOKAI, inline_styles=True, code_format=_TERMINAL)
    return lambda page: page.set_content(html)


class _Started:
    """`gapgate ui` or `gapgate serve` in a clone, until the end of the block."""

    def __init__(self, clone: Path, command: str, address: str) -> None:
        self.clone, self.command, self.address = clone, command, address

    def __enter__(self) -> str:
        """Return the address that the command prints."""
        log = self.clone.parent / f"{self.command}.log"
        arguments = [sys.executable, "-c", "from cli import main; main()", self.command, "--port"]
        self.process = child_server.start(
            [*arguments, str(child_server.free_port())], log, cwd=self.clone, env=_environment(self.clone)
        )

        def problem() -> str | None:
            return None if re.search(self.address, log.read_text()) else "silent"

        child_server.wait(self.process, log, f"gapgate {self.command}", problem, 120)
        found = re.search(self.address, log.read_text())
        assert found
        return found[1]

    def __exit__(self, *_: object) -> None:
        child_server.stop(self.process, whole_group=True)


def _environment(clone: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(clone), "GAPGATE_HOME": "", "MLFLOW_TRACKING_URI": ""}


def _show_run(clone: Path, server: str) -> Callable[[Any], None]:
    from mlflow import MlflowClient

    (run,) = MlflowClient(f"sqlite:///{clone}/.gapgate/mlflow.db").search_runs(["1"])

    def show(page: Any) -> None:
        page.goto(f"{server}/#/experiments/1/runs/{run.info.run_id}?workflowType=machine_learning")
        page.get_by_text("gap, train − test").first.wait_for()
        # MLflow 3.17 opens its assistant beside a run, and folds the description.
        for label in ("Close", "Expand description"):
            if (button := page.get_by_label(label, exact=True)).count():
                button.first.click()
        page.get_by_text("gap, train − test").first.scroll_into_view_if_needed()

    return show


def _show_answer(page: Any, server: str) -> None:
    page.goto(server)
    page.click("#example")
    page.wait_for_selector(".heat img")
    page.wait_for_selector(".chain li")
    page.evaluate("window.scrollTo(0, 0)")


def _picture(page: Any, name: str, show: Callable[[Any], None], of: str = "") -> None:
    """Write what `show` brings onto the page, or the element `of` on it, with 256 colours."""
    show(page)
    page.wait_for_timeout(1500)  # transitions
    png = (page.locator(of) if of else page).screenshot()
    with Image.open(io.BytesIO(png)) as taken:
        few = taken.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(IMAGES / f"{name}.png", optimize=True)
    page.close()


def _report_sizes() -> int:
    sizes = {path.name: path.stat().st_size for path in sorted(IMAGES.iterdir())}
    print(", ".join(f"{name} {size:,} bytes" for name, size in sizes.items()))
    if sum(sizes.values()) > MAX_BYTES:
        print(f"error: {sum(sizes.values()):,} bytes are more than {MAX_BYTES:,}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
