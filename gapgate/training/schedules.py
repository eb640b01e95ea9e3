"""Schedules of the learning rate: pure functions of the step."""

from __future__ import annotations

import math

_ONE_CYCLE_START = 25.0
_ONE_CYCLE_END = 1e4


def lr_at(step: int, total_steps: int, peak: float, schedule: str, warmup_fraction: float) -> float:
    """The learning rate of a step, counted from 0; `schedule` is that of `TrainSettings`."""
    if schedule == "cosine":
        return cosine_lr(step, total_steps, peak, warmup_fraction)
    return one_cycle_lr(step, total_steps, peak, warmup_fraction) if schedule == "one_cycle" else peak


def cosine_lr(step: int, total_steps: int, peak: float, warmup_fraction: float) -> float:
    """A linear rise to `peak` in the first steps, then half a cosine to zero (Loshchilov and Hutter 2016)."""
    warmup_steps = round(warmup_fraction * total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return _anneal(peak, 0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))


def one_cycle_lr(step: int, total_steps: int, peak: float, warmup_fraction: float) -> float:
    """One cycle (Smith 2018, arXiv:1803.09820) of two cosines, from peak / 25 to `peak` to peak / 250,000, with the
    momentum left alone: the values of torch's `OneCycleLR`."""
    peak_step = warmup_fraction * total_steps - 1
    start = peak / _ONE_CYCLE_START
    if step <= peak_step:
        return _anneal(start, peak, step / peak_step if peak_step else 1.0)
    peak_step = max(0.0, peak_step)
    return _anneal(peak, start / _ONE_CYCLE_END, (step - peak_step) / max(1.0, total_steps - 1 - peak_step))


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
