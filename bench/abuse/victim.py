"""The server under abuse as it is seen from outside: memory, processor time, processes, connections, metrics."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from bench.abuse.raw_client import ask
from bench.http_load import get
from gapgate.process.cpu_quota import cgroups
from serving.run import Server, serve


@dataclass(slots=True)
class Victim:
    """A running server of a `.bento` archive."""

    server: Server
    folder: Path
    """The package that it reads from."""

    @property
    def url(self) -> str:
        return self.server.url

    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        return [child for child in psutil.Process(self.server.process.pid).children() if child.is_running()]

    def cpu_s(self) -> float:
        """Processor time of the workers so far."""
        return sum(sum(worker.cpu_times()[:2]) for worker in self.workers())

    def memory_mb(self) -> tuple[float, float]:
        """RSS and USS of all workers together."""
        full = [worker.memory_full_info() for worker in self.workers()]
        return sum(info.rss for info in full) / 1e6, sum(info.uss for info in full) / 1e6

    def tensor_bytes(self) -> int:
        """The length of a raw tensor that the model takes."""
        shape = ask(self.url, get("/v1/model")).json()["input"]
        return int(shape["height"] * shape["width"] * shape["channels"])

    def samples(self) -> dict[str, float]:
        """Series → its value in `/metrics`."""
        lines = ask(self.url, get("/metrics")).body.decode().splitlines()
        parts = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {series: float(value) for series, _, value in parts}

    @contextmanager
    def growth(self) -> Iterator[Growth]:
        """The peak by which the workers' memory grows in this context (VmHWM of proc(5))."""
        grown = Growth()
        before = {}
        for worker in self.workers():
            Path(f"/proc/{worker.pid}/clear_refs").write_text("5")  # sets the peak back to what is resident now
            before[worker.pid] = _status_mb(worker.pid, "VmRSS")
        yield grown
        grown.peak_mb = sum(_status_mb(pid, "VmHWM") - resident for pid, resident in before.items())

    @contextmanager
    def limited(self, num_bytes: int) -> Iterator[bool]:
        """Limit the memory of all the server's processes by a control group for the time of the block; yields False
        where none can be made, which takes root."""
        with ExitStack() as stack:
            yield any(_limit(stack, *group, num_bytes, self._processes()) for group in _memory_groups())

    def _processes(self) -> list[int]:
        return [self.server.process.pid, *(worker.pid for worker in self.workers())]


def _memory_groups() -> set[tuple[Path, str]]:
    """Mount point of the memory controller's hierarchy, and the path of this process's group in it."""
    return set(cgroups("memory", Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))


def _limit(stack: ExitStack, mount: Path, own: str, num_bytes: int, pids: list[int]) -> bool:
    group = mount / f"gapgate-abuse-{os.getpid()}"
    with suppress(OSError):
        group.mkdir()
        stack.callback(group.rmdir)
        for limit in (group / "memory.max", group / "memory.limit_in_bytes"):
            if limit.exists():
                limit.write_text(str(num_bytes))
                stack.callback(_empty, group, mount / own)
                for pid in pids:
                    (group / "cgroup.procs").write_text(str(pid))
                return True
    return False


def _empty(group: Path, into: Path) -> None:
    for pid in (group / "cgroup.procs").read_text().split():
        with suppress(OSError):  # a process that has ended
            (into / "cgroup.procs").write_text(pid)


@dataclass(slots=True)
class Growth:
    """The result of `Victim.growth`, set when its context ends."""

    peak_mb: float = 0.0


@contextmanager
def victim(bento: Path, environment: Mapping[str, str] | None = None) -> Iterator[Victim]:
    """A server of a `.bento` archive that is ready, with all its workers; stopped in the end."""
    with (
        TemporaryDirectory(prefix="gapgate-abuse-") as folder,
        serve(bento, work_dir=Path(folder), environment=environment) as server,
    ):
        server.wait_ready()
        found = Victim(server, Path(folder, "bento/src/model"))
        deadline = time.monotonic() + 10
        wanted = int((environment or {}).get("GAPGATE_WORKERS", "1"))
        while len(found.workers()) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        yield found


@contextmanager
def started(package: Path) -> Iterator[str]:
    """The URL of a server of that package, ready or not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "serving", "--fd", str(listener.fileno()), "--package", str(package)]
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            command, cwd=package.parent, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 10
        while _is_starting(url) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


class Connects:
    """The outbound connections of processes, seen by strace(1) where it is installed and in /proc/net otherwise."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self.by_strace = shutil.which("strace") is not None
        self._processes = processes
        self._strace: subprocess.Popen[str] | None = None
        self._found: set[str] = set()

    def __enter__(self) -> Connects:
        if self.by_strace:
            attach = [f"--attach={process.pid}" for process in self._processes]
            command = ["strace", "-f", "-e", "trace=connect", *attach]
            self._strace = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
            deadline = time.monotonic() + 5
            while not all(self._is_traced(process.pid) for process in self._processes) and time.monotonic() < deadline:
                time.sleep(0.02)
        return self

    def look(self) -> None:
        """Note the connections that are there now; needed where there is no strace."""
        for process in self._processes:
            listening = {each.laddr for each in process.net_connections() if each.status == psutil.CONN_LISTEN}
            for each in process.net_connections():
                if each.raddr and each.laddr not in listening:
                    self._found.add(str(each.raddr))

    def __exit__(self, *_: object) -> None:
        if self._strace:
            self._strace.terminate()
            with suppress(subprocess.TimeoutExpired):
                _, printed = self._strace.communicate(timeout=5)
                self._found |= set(re.findall(r"connect\(.*", printed))

    @property
    def found(self) -> set[str]:
        """The connections seen, as strace or psutil writes them."""
        return self._found

    @staticmethod
    def _is_traced(pid: int) -> bool:
        return "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text()


def _is_starting(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/readyz", timeout=10).close()
    except urllib.error.HTTPError as answer:
        with answer:
            return bool(json.load(answer)["error"]["code"] == "starting")
    return False


def _status_mb(pid: int, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1e3 if found else 0.0
