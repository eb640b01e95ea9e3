"""The budget for large images: what decoding really takes, one at a time, and given back by whoever ends."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gapgate.data.picture.opening import read_header
from gapgate.errors import ImageError
from gapgate.process.memory_limit import available_bytes
from serving.guard.memory import SMALL_BYTES, Memory, bytes_to_decode
from serving.http.responses import ApiError

MEGABYTE = 2**20


def test_two_large_images_that_fit_alone_and_not_together_are_taken_one_at_a_time() -> None:
    memory = Memory(available=lambda: 400 * MEGABYTE)
    with memory.held(200 * MEGABYTE):
        with pytest.raises(ApiError) as error, memory.held(200 * MEGABYTE):
            pass
        assert (error.value.status, error.value.headers) == (429, {"Retry-After": "1"})
        with memory.held(SMALL_BYTES):  # small ones are never refused
            pass
        with memory.held(90 * MEGABYTE):
            pass
    with memory.held(200 * MEGABYTE):
        pass


def test_an_image_that_fits_in_no_case_is_told_so() -> None:
    memory = Memory(available=lambda: 400 * MEGABYTE)
    with (
        pytest.raises(ImageError, match="takes 315 MB of memory and the server has 315 MB; send a smaller image"),
        memory.held(300 * MEGABYTE + 1),
    ):
        pass


def test_the_budget_is_that_of_all_workers_and_a_killed_one_gives_its_part_back() -> None:
    memory = Memory(available=lambda: 400 * MEGABYTE)
    ready, wake = os.pipe()
    pid = os.fork()
    if not pid:
        memory.worker = 1
        with memory.held(200 * MEGABYTE):
            os.write(wake, b"x")
            signal.pause()
    os.read(ready, 1)
    try:
        with pytest.raises(ApiError), memory.held(200 * MEGABYTE):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    memory.ended(1)
    with memory.held(200 * MEGABYTE):
        pass


def test_threads_share_it_too() -> None:
    memory = Memory(available=lambda: 800 * MEGABYTE)

    def take(_: int) -> int:
        try:
            with memory.held(100 * MEGABYTE):
                return 1
        except ApiError:
            return 0

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(take, range(200))) > 100
    with memory.held(600 * MEGABYTE):  # nothing is left behind
        pass


LARGE = Image.radial_gradient("L").resize((3_000, 2_000))
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PNG": ("PNG", "RGB", {"compress_level": 1}),
    "JPEG": ("JPEG", "RGB", {}),
    "progressive JPEG": ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    "WebP": ("WEBP", "RGB", {"method": 0}),
    "AVIF": ("AVIF", "RGB", {"speed": 10}),
    "gray": ("PNG", "L", {"compress_level": 1}),
}
PROGRAM = """
import re, sys
from pathlib import Path
from gapgate.data.picture.opening import load_image, read_header
from gapgate.data.transform import Transform
from serving.guard.memory import bytes_to_decode

def status(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

header = read_header(sys.stdin.buffer.read(), max_pixels=10**8)
told = bytes_to_decode(header)
Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
before = status("VmRSS")
Transform(size_px=28, mode="rgb").apply_to_image(load_image(header))
print(told, status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_takes_no_more_than_it_is_counted_for(kind: str) -> None:
    form, mode, options = KINDS[kind]
    stream = io.BytesIO()
    LARGE.convert(mode).save(stream, form, **options)
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=stream.getvalue(), capture_output=True, check=True)
    told, taken = map(int, done.stdout.split())
    assert taken < 1.15 * told
    assert told < 4 * taken


def test_the_header_is_enough_to_know(tmp_path: Path) -> None:
    LARGE.save(tmp_path / "a.webp", method=0)
    with read_header(tmp_path / "a.webp", max_pixels=10**8) as header:
        assert bytes_to_decode(header) == 16 * 3_000 * 2_000


def group(folder: Path, version: int, limit: str, use: int, inactive: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (folder / names[0]).write_text(limit + "\n")
    (folder / names[1]).write_text(f"{use}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{'total_' if version == 1 else ''}inactive_file {inactive}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 1000 kB\n")
    return tmp_path


@pytest.mark.parametrize(
    ("version", "line", "at"),
    [(2, "0::/a/b", "a/b"), (1, "5:memory:/a/b", "memory/a/b"), (1, "5:memory:/a/b", "memory/a")],
)
def test_the_smallest_room_of_all_groups_and_the_machine_counts(
    machine: Path, version: int, line: str, at: str
) -> None:
    (machine / "cgroup").write_text(line + "\n")

    def found() -> int:
        return available_bytes(membership=machine / "cgroup", root=machine / "root", machine=machine / "meminfo")

    assert found() == 1_024_000
    group(machine / "root" / at, version, "max", 1, 0)
    assert found() == 1_024_000
    group(machine / "root" / at, version, "500000", 400_000, 50_000)
    assert found() == 150_000
    group(machine / "root" / at, version, "500000", 700_000, 0)
    assert found() == 0
