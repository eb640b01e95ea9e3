"""`make demo`: serve the champion, predict one held-out image, and name the next commands."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from pathlib import Path

from rich.json import JSON

from cli.terminal.console import Console
from gapgate.data.splits import Splits
from gapgate.data.tiles import png
from pipelines.local.bentos import champion_bento
from serving.run import serve


def main() -> int:
    """Serve the champion and predict one test image over HTTP; returns the exit code."""
    console = Console()
    bento = champion_bento("gapgate")
    splits = Splits.open(next(bento.parents[2].glob("preprocess/splits")))
    row = splits.rows("test")[0]
    # Port 0 takes a free one: `gapgate serve` may be running on its default port.
    with tempfile.TemporaryDirectory() as work, serve(bento, port=0, work_dir=Path(work)) as server:
        server.wait_ready()
        request = urllib.request.Request(
            f"{server.url}/v1/predict", data=png(splits.images[row]), headers={"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = json.loads(response.read(), parse_float=lambda text: round(float(text), 4))  # to be read
    console.print(f"\n[bold]POST /v1/predict[/] with a test image of class {splits.class_names[splits.labels[row]]}:")
    console.print(JSON.from_data(answer), soft_wrap=True)  # a digest stays whole
    console.print(
        "\nNext:\n"
        "  [bold].venv/bin/gapgate ui[/]                  browse the runs in MLflow\n"
        "  [bold].venv/bin/gapgate serve[/]               serve the champion\n"
        "  [bold].venv/bin/gapgate run ./your-images[/]   one folder of images for each class"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
