"""The device that training runs on: accelerator, CPU threads, bfloat16, memory format, and free memory."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import nn

from gapgate.errors import AcceleratorError
from gapgate.process.memory_limit import available_bytes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>

RESIDENT_FRACTION = 0.5
"""Largest share of the free memory that a data set may take to be loaded whole; the rest is for the network."""


def select(accelerator: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Select the device for the setting `train.accelerator`.

    Raises:
        AcceleratorError: the setting is `cuda` and torch sees no GPU.
    """
    if accelerator == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if accelerator == "cuda":
        reason = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no GPU"
        raise AcceleratorError(f"train.accelerator=cuda but {reason}; check nvidia-smi or set train.accelerator=auto")
    return torch.device("cpu")


def uses_bfloat16(amp: Literal["auto", "on", "off"], device: torch.device, model: nn.Module) -> bool:
    """Return True if `model` shall be trained under bfloat16 autocast: auto is on where the device has it in hardware,
    but not for grouped convolutions on a CPU: depthwise ones took 1.6 times as long in it (bench/RESULTS.md).

    Raises:
        AcceleratorError: the setting is `on` and the device has no bfloat16 arithmetic. Training with emulated
            bfloat16 was 190 times slower on such a CPU.
    """
    if amp == "off":
        return False
    has_bfloat16 = bool(bfloat16_instructions(device))
    if amp == "auto" and device.type == "cpu":
        return has_bfloat16 and not any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())
    if amp == "on" and not has_bfloat16:
        raise AcceleratorError(f"train.amp=on but this {device.type} has no bfloat16; set train.amp=auto")
    return has_bfloat16


def bfloat16_instructions(device: torch.device) -> str:
    """Name the instructions for bfloat16 that a device has in hardware; empty: it has none."""
    if device.type == "cuda":
        # Without emulation, which torch counts as support: GPUs before compute capability 8.0 have no bfloat16.
        return "CUDA" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX-512 BF16" if torch.cpu._is_avx512_bf16_supported() else ""


def memory_format(channels_last: Literal["auto", "on", "off"]) -> torch.memory_format:
    """Return the memory format of images and weights: NHWC unless it is off.

    NHWC trained 1.3 times as fast on a CPU with oneDNN, and it is the layout of tensor cores.
    """
    return torch.contiguous_format if channels_last == "off" else torch.channels_last


def name(device: torch.device) -> str:
    """Return `cpu`, or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def environment(device: torch.device) -> dict[str, str]:
    """Facts about torch and the processor on which the bits of a result depend."""
    return {
        "torch": torch.__version__,
        "device": name(device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_instructions": bfloat16_instructions(device),
    }


def free_memory_bytes(device: torch.device) -> int:
    """Return the bytes of memory that this process may still take on `device`; on a CPU the cgroup's limit counts."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let each CPU operation of torch use `count` threads inside the block, also in threads that start there."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of returning it to the system, until the process ends.

    A step frees tensors of megabytes and allocates them again. By default glibc maps each one anew, and the system
    zeroes its pages one page fault at a time. On the tutorial CNN that took a quarter of all CPU time: 1,850 images a
    CPU-second against 2,430. Tensors above 32 MiB, glibc's limit, are still mapped. Other C libraries are left as
    they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    # 32 MiB is the largest threshold that mallopt(3) takes on 64-bit systems. Setting either value also ends glibc's
    # own adjustment of both.
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _facts() -> dict[str, object]:
    cpu, best = select("cpu"), select("auto")
    gpu = {"name": name(best), "free_memory_bytes": free_memory_bytes(best)} if best.type == "cuda" else None
    return {
        "bfloat16_instructions": bfloat16_instructions(cpu),
        "free_memory_bytes": free_memory_bytes(cpu),
        "gpu": gpu,
    }


if __name__ == "__main__":
    # For `gapgate doctor`, which asks in a process of its own.
    print(json.dumps(_facts()))
