"""`gapgate doctor`: what this machine has, and what that means for a run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from cli.options import status
from cli.terminal.console import Console
from gapgate import __version__
from gapgate.errors import GapgateError
from gapgate.text import redacted

_TIMEOUT_S = 5
_MIN_MEMORY, _MIN_DISK = 2 << 30, 2 << 30
"""Bytes below which a run may fail: torch takes 1 GB of memory, and a run keeps a copy of its data."""
_PACKAGES = ("torch", "onnxruntime", "mlflow", "bentoml", "kfp", "dvc")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    what: str
    found: str
    meaning: str
    is_fault: bool = False
    """True if no run can succeed here until it is mended."""


def doctor() -> None:
    """Check this machine: processor, GPU, memory, disk, versions, Docker, kubectl, MLflow and Kubeflow Pipelines. Exit
    code 2: a run cannot succeed here."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "", "found", "meaning"):
        table.add_column(heading, no_wrap=not heading, overflow="fold")
    faults = 0
    for check in _CHECKS:
        with status("looking at this machine"):
            findings = list(check())
        for finding in findings:
            faults += finding.is_fault
            mark = "[red]✗[/]" if finding.is_fault else "[green]✓[/]"
            table.add_row(mark, finding.what, escape(finding.found), escape(finding.meaning))
    Console(highlight=False).print(table)
    if faults:
        raise typer.Exit(GapgateError.exit_code)


def _versions() -> Iterator[Finding]:
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("gapgate", __version__, f"Python {python}")
    yield Finding("packages", ", ".join(f"{name} {version(name)}" for name in _PACKAGES), "in its environment")


def _devices() -> Iterator[Finding]:
    from gapgate.process.cpu_quota import available_cpus

    # In a process of its own, since the command line imports no torch.
    asked = subprocess.run([sys.executable, "-m", "gapgate.training.device"], capture_output=True, text=True)
    if asked.returncode:
        reason = asked.stderr.strip().rpartition("\n")[2]
        yield Finding("torch", reason, "cannot be imported; install again (`make install`)", is_fault=True)
        return
    facts = json.loads(asked.stdout)
    fast = facts["bfloat16_instructions"]
    precision = f"trains in bfloat16 ({fast})" if fast else "trains in float32; it has no bfloat16"
    yield Finding("processor", f"{available_cpus()} of {os.cpu_count()} processors", precision)
    free = facts["free_memory_bytes"]
    enough = "enough for a run" if free >= _MIN_MEMORY else f"a run needs about {decimal(_MIN_MEMORY)}; close programs"
    yield Finding("memory", f"{decimal(free)} free", enough, is_fault=free < _MIN_MEMORY)
    if gpu := facts["gpu"]:
        yield Finding("GPU", f"{gpu['name']}, {decimal(gpu['free_memory_bytes'])} free", "train uses it")
    else:
        yield Finding("GPU", "none that torch sees", "train uses the processor; photos take minutes instead of seconds")


def _disk() -> Iterator[Finding]:
    from components.platform.workspace import home

    place = home()
    # The workspace is made by the first run; until then its disk is that of the nearest folder above.
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        yield Finding(
            "workspace", str(place), "cannot be written; set GAPGATE_HOME to a folder of yours", is_fault=True
        )
        return
    free = shutil.disk_usage(there).free
    meaning = "runs, models and the local MLflow store go there"
    if free < _MIN_DISK:
        meaning = "too little for a run; `gapgate clean` frees old runs, or set GAPGATE_HOME to another disk"
    yield Finding("workspace", f"{place}, {decimal(free)} free", meaning, is_fault=free < _MIN_DISK)


def _docker() -> Iterator[Finding]:
    import docker

    try:
        client = docker.from_env(timeout=_TIMEOUT_S)
        found = f"engine {client.version()['Version']}"
        client.close()
    except docker.errors.DockerException:
        yield Finding("Docker", "no engine answers", "not needed, except for --runner docker and `make images`")
        return
    yield Finding("Docker", found, "--runner docker can run each step in a container")


def _kubectl() -> Iterator[Finding]:
    if shutil.which("kubectl") is None:
        yield Finding("kubectl", "not installed", "not needed, except to install Gapgate on a cluster (infra/up)")
        return
    asked = subprocess.run(["kubectl", "config", "current-context"], capture_output=True, text=True, timeout=_TIMEOUT_S)
    context = asked.stdout.strip()
    meaning = "infra/up installs there" if context else "`kubectl config use-context` names the cluster of infra/up"
    yield Finding("kubectl", f"context {context}" if context else "no context", meaning)


def _mlflow() -> Iterator[Finding]:
    import httpx

    from components.platform.workspace import has_store, tracking_uri

    uri = tracking_uri()
    if not uri.startswith(("http:", "https:")):
        said = "`gapgate ui` shows it" if has_store() else "the first run makes it"
        yield Finding("MLflow", "the workspace's own store" if uri.startswith("sqlite:") else redacted(uri), said)
        return
    try:
        httpx.get(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT_S).raise_for_status()
    except httpx.HTTPError as error:
        meaning = f"{error}; runs work, and `gapgate sync` sends them later"
        yield Finding("MLflow", f"{redacted(uri)} does not answer", redacted(meaning))
        return
    yield Finding("MLflow", f"{redacted(uri)} answers", "runs are sent there")


def _kubeflow() -> Iterator[Finding]:
    host = os.environ.get("KF_PIPELINES_ENDPOINT", "")
    if not host:
        yield Finding("Kubeflow", "KF_PIPELINES_ENDPOINT is not set", "needed for commands on a cluster alone")
        return
    from cli.cluster.options import connected

    try:
        connected(host, os.environ.get("GAPGATE_KFP_TOKEN", ""), os.environ.get("GAPGATE_KFP_COOKIE", ""), "gapgate")
    except GapgateError as error:
        yield Finding("Kubeflow", redacted(host), redacted(str(error)))
        return
    yield Finding("Kubeflow", f"{redacted(host)} answers", "`gapgate submit` runs the pipeline there")


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _versions,
    _devices,
    _disk,
    _docker,
    _kubectl,
    _mlflow,
    _kubeflow,
)
