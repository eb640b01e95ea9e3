"""The command line. Each command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import atexit
import gc
import locale
import os
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from cli import data, doctor, look, predict, reports, run, serve, settings, sweep, versions, workspace
from cli.cluster import commands, schedule
from cli.terminal.console import Console
from gapgate import __version__
from gapgate.errors import EXIT_CODES, GapgateError, fault_of_machine

_EXIT_CODES = ", ".join(f"{code} {meaning.partition(';')[0]}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a folder of labelled images to a served model, with a gate on the measured overfitting gap.",
    epilog=f"Exit codes: {_EXIT_CODES}.",
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    run.run,
    run.step,
    sweep.sweep,
    reports.report,
    reports.compare,
    workspace.ui,
    serve.serve,
    predict.predict,
    look.look,
    look.similar,
    versions.models,
    versions.promote,
    versions.rollback,
    versions.receipt,
    workspace.clean,
    workspace.sync,
    settings.settings,
    doctor.doctor,
)
_ON_A_CLUSTER: tuple[Callable[..., None], ...] = (
    commands.submit,
    schedule.schedule,
    commands.runs,
    commands.logs,
    commands.cancel,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gapgate {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for command in _COMMANDS:
    app.command()(command)
app.add_typer(data.app, name="data")
for command in _ON_A_CLUSTER:
    app.command(rich_help_panel="On a cluster")(command)
app.command("compile", rich_help_panel="On a cluster")(commands.compile_)


def _in_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: names of files, and what is written,
    must be the same bytes on every machine (PEP 540)."""
    is_utf8 = sys.flags.utf8_mode or locale.getencoding().lower().replace("-", "") == "utf8"
    # Once: under -E and -I Python does not read the variable, and would start again for ever.
    if not is_utf8 and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        # `orig_argv` has the options of Python itself too, such as -m and -W.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
    """Run the command line; a `GapgateError` becomes one line on stderr and its exit code."""
    _in_utf8()
    # At its end Python searches all that kfp and MLflow made for cycles, 0.3 s; the system frees the memory anyway.
    atexit.register(gc.freeze)
    try:
        app()
    except GapgateError as error:
        _end(error)
    except BrokenPipeError:
        # The reader has gone (`gapgate runs | head`). Python flushes stdout again at its end, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if fault := fault_of_machine(error):
            _end(fault)
        raise


def _end(error: GapgateError) -> NoReturn:
    # Escaped: a message may hold brackets, as of a list, which rich would take for markup.
    Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
    sys.exit(error.exit_code)
