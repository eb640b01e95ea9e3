"""Schedules of the learning rate: pure functions of the step."""

from __future__ import annotations

import math

# Defaults of torch's OneCycleLR: div_factor, and final_div_factor, which divides the first learning rate.
_ONE_CYCLE_START = 25.0
_ONE_CYCLE_END = 1e4


def lr_at(step: int, total_steps: int, peak: float, schedule: str, warmup_fraction: float) -> float:
    """Compute the learning rate of a step, counted from 0; `schedule` is that of `TrainSettings`."""
    if schedule == "cosine":
        return cosine_lr(step, total_steps, peak, warmup_fraction)
    return one_cycle_lr(step, total_steps, peak, warmup_fraction) if schedule == "one_cycle" else peak


def cosine_lr(step: int, total_steps: int, peak: float, warmup_fraction: float) -> float:
    """Compute a linear rise to `peak` in the first steps, then half a cosine to zero (Loshchilov and Hutter 2016)."""
    warmup_steps = round(warmup_fraction * total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps  # step + 1: a first step at a rate of zero would change nothing
    return _anneal(peak, 0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))


def one_cycle_lr(step: int, total_steps: int, peak: float, warmup_fraction: float) -> float:
    """Compute one cycle (Smith 2018, arXiv:1803.09820): a cosine from peak / 25 to `peak`, then one to peak / 250,000.

    The values are those of torch's `OneCycleLR`; the momentum stays constant.
    """
    # The −1 and the end at total_steps − 1 are torch's: it counts the rise from step 0 to the step before the share.
    peak_step = warmup_fraction * total_steps - 1
    start = peak / _ONE_CYCLE_START
    if step <= peak_step:
        return _anneal(start, peak, step / peak_step if peak_step else 1.0)
    peak_step = max(0.0, peak_step)
    return _anneal(peak, start / _ONE_CYCLE_END, (step - peak_step) / max(1.0, total_steps - 1 - peak_step))


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
