"""`gapgate predict`: a packaged model's answers to image files."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cli.options import DEFAULT_MODEL, Key, argument, find_champion, option, status
from cli.terminal.console import Console
from gapgate.errors import SettingsError

if TYPE_CHECKING:
    from serving.client.prediction import Answerer, Row


class Format(StrEnum):
    """Output formats of `gapgate predict` on the terminal."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def predict(
    images: Annotated[list[Path], argument(metavar="IMAGE", help="Image files, and folders of them.")],
    url: Annotated[
        str,
        option("--url", metavar="URL", help="Server to ask; by default this machine answers."),
    ] = "",
    model: Annotated[
        str,
        option("--model", metavar="NAME", help="Model in the registry whose champion answers; by default gapgate."),
    ] = "",
    bento: Annotated[
        Path | None,
        option("--bento", metavar="FILE", help="The .bento file that answers, champion or not."),
    ] = None,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="NUMBER", min=1, max=1000, help="Number of classes for each image.")
    ] = 5,
    output: Annotated[
        Path | None,
        option("--output", "-o", metavar="FILE", help="File for all answers: .csv, .parquet or .json."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="Form of what is printed.")] = Format.TABLE,
    key: Key = "",
    batch_size: Annotated[
        int | None,
        option("--batch-size", metavar="NUMBER", min=1, max=4096, help="Number of images at a time; by default 64."),
    ] = None,
) -> None:
    """Classify image files and folders, here or by a server. Exit code 1: some images have no answer."""
    from serving.client.output import check_output
    from serving.client.prediction import find_images

    if url and (bento or model):
        raise SettingsError("--url asks the model of that server; leave out --bento and --model")
    if bento and model:
        raise SettingsError(f"both --bento {bento} and --model {model} name a model; leave one out")
    if output:
        check_output(output)
    files, skipped = find_images(images)
    if skipped:
        names = ", ".join(path.name for path in skipped[:3]) + (", …" if len(skipped) > 3 else "")
        note = f"skipped {len(skipped):,} files that are no images: {names}"
        Console(stderr=True).print(note, soft_wrap=True, highlight=False, markup=False)
    # SIGTERM raises SystemExit, so that the unpacked model and a half-written output are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        if url:
            from serving.client.remote import Remote

            remote = Remote(url, key=key, top_k=top_k, batch_size=batch_size)
            answerer: Answerer = stack.enter_context(closing(remote))
        else:
            answerer = stack.enter_context(_local(bento, model or DEFAULT_MODEL, top_k, batch_size))
        num_errors = _predict(answerer, files, top_k, output, form)
    # After the `with`: the output has its name before the exit code says that it is there.
    raise typer.Exit(1 if num_errors else 0)


@contextmanager
def _local(bento: Path | None, model: str, top_k: int, batch_size: int | None) -> Iterator[Answerer]:
    """Unpack a Bento's model for the time of the block, and yield an answerer that runs it in this process."""
    # Set before numpy is imported, which reads it once: `predict` has a thread for each processor already.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from gapgate.evidence.sealed.archive import unpacked_model
    from serving.client.prediction import Local

    archive = bento or find_champion(model)
    with ExitStack() as stack:
        with status(f"opening {archive.name}"):
            folder = stack.enter_context(unpacked_model(archive))
            answerer = Local(folder, top_k=top_k, batch_size=batch_size)
        yield answerer


def _predict(answerer: Answerer, files: list[Path], top_k: int, output: Path | None, form: Format) -> int:
    """Predict all files, write the rows to `output` and the terminal, and return how many files have no answer."""
    import warnings

    from cli.terminal.predictions_table import Summary
    from serving.client.output import csv_to, json_to, to_file
    from serving.client.prediction import predict as rows_of

    warnings.filterwarnings("ignore", module="PIL")  # warnings on damaged files would stand in the middle of the table
    summary = Summary()
    begun = time.perf_counter()
    with ExitStack() as stack:
        writers: list[Callable[[list[Row]], None]] = [summary.write]
        if output:
            writers.append(stack.enter_context(to_file(output, top_k)))
        if form is not Format.TABLE:
            writers.append(stack.enter_context((csv_to if form is Format.CSV else json_to)(sys.stdout, top_k)))
        advance = stack.enter_context(_progress(len(files)))
        for rows in rows_of(answerer, files):
            for write in writers:
                write(rows)
            advance(len(rows))
    console = Console()
    if form is Format.TABLE:
        summary.show(console, time.perf_counter() - begun)
        if output:
            console.print(
                f"all rows ({summary.num_images:,}) are in {escape(str(output))}", soft_wrap=True, highlight=False
            )
    return summary.num_errors


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar, on a terminal only; yields the function that advances it by a number of images."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.update(task, advance=count)
