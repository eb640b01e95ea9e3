"""Where training runs: the accelerator, CPU threads, bfloat16, the memory format, and how much memory is free."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from gapgate.errors import AcceleratorError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>

RESIDENT_FRACTION = 0.5
"""A data set goes into memory whole where it takes at most this share of what is free; the rest is for the network."""


def select(accelerator: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that `train.accelerator` means here.

    Raises:
        AcceleratorError: `cuda` where torch sees no GPU.
    """
    if accelerator == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if accelerator == "cuda":
        reason = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no GPU"
        raise AcceleratorError(f"train.accelerator=cuda but {reason}; check nvidia-smi or set train.accelerator=auto")
    return torch.device("cpu")


def uses_bfloat16(amp: Literal["auto", "on", "off"], device: torch.device) -> bool:
    """Whether to train under bfloat16 autocast.

    Raises:
        AcceleratorError: `on` where the device has no bfloat16 arithmetic. Emulated on such a CPU, training was 190
            times slower.
    """
    if amp == "off" or (amp == "auto" and device.type == "cpu"):
        return False
    has_bfloat16 = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    if amp == "on" and not has_bfloat16:
        raise AcceleratorError(f"train.amp=on but this {device.type} has no bfloat16; set train.amp=auto")
    return has_bfloat16


def memory_format(channels_last: Literal["auto", "on", "off"]) -> torch.memory_format:
    """NHWC memory unless it is off: 1.3 × on a CPU with oneDNN, and what tensor cores take."""
    return torch.contiguous_format if channels_last == "off" else torch.channels_last


def name(device: torch.device) -> str:
    """`cpu`, or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def free_memory_bytes(device: torch.device) -> int:
    """Memory that this process may still take on `device`; on a CPU the cgroup's limit counts."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available_bytes(), _cgroup_bytes())


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let each operation of torch on the CPU use `count` threads, also in threads that start inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next step instead of giving it back to the system, for good.

    A step frees and takes again tensors of megabytes. By default each is mapped anew and its pages are zeroed one fault
    at a time: on the tutorial CNN a quarter of all CPU time, 1,850 images a CPU-second against 2,430. Tensors above
    32 MiB, glibc's limit, are still mapped. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _available_bytes() -> int:
    """What Linux could give without swapping; elsewhere half of the memory."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cgroup_bytes() -> int:
    """What is left below this process's cgroup limit (version 2, then 1), or a huge number without one."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        root = Path("/sys/fs/cgroup")
        try:
            return int((root / limit).read_text()) - int((root / used).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return 1 << 62
