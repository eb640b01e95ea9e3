"""Prometheus metrics for `/metrics`: a fixed set of series, whatever clients ask for.

Labels are route templates, status codes, and the versions and class names of models that were served; never a path. If
`PROMETHEUS_MULTIPROC_DIR` is set, as in a server of several workers, the figures of all workers are added up, also of
those that ended. A single worker counts in its own memory, which takes a third of the time.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from serving.model.models import Models
from serving.model.predictor import Predictor

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
UNMATCHED = "unmatched"
"""Label for every unknown path."""
# From below the 0.7 ms of a 28 px image (`serving.http.inputs`) to the default timeout of a request.
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# Finer at the top, where most answers of a good model are.
_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics(Collector):
    """The series of one worker."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._registry = own = CollectorRegistry()
        requests = Counter("gapgate_requests", "Requests answered.", ["route", "status"], registry=own)
        said = "From a request's headers to its answer."
        seconds = Histogram("gapgate_request_seconds", said, ["route"], buckets=_SECONDS, registry=own)
        said = "Images classified, by the most probable class."
        predictions = Counter("gapgate_predictions", said, ["version", "class"], registry=own)
        said = "Probability of the most probable class."
        confidence = Histogram("gapgate_confidence", said, ["version"], buckets=_CONFIDENCES, registry=own)
        # livesum: a worker that ended has no request in work (`worker_ended`).
        self.in_progress = Gauge("gapgate_in_progress", "Requests in work.", registry=own, multiprocess_mode="livesum")
        # `labels(...)` checks its arguments under a lock each time; the label sets are few.
        self._request_of, self._seconds_of = cache(requests.labels), cache(seconds.labels)
        self._prediction_of, self._confidence_of = cache(predictions.labels), cache(confidence.labels)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request and its time."""
        self._request_of(route, str(status)).inc()
        self._seconds_of(route).observe(seconds)

    def predicted(self, predictor: Predictor, answers: Iterable[tuple[str, float]]) -> None:
        """Count images by their class and confidence; `answers` are (class, confidence)."""
        version = predictor.model.version
        observe = self._confidence_of(version).observe
        for class_name, confidence in answers:
            self._prediction_of(version, class_name).inc()
            observe(confidence)

    def text(self) -> bytes:
        """Return the metrics of all workers in the text format of Prometheus."""
        registry = self._registry
        if os.environ.get(DIRECTORY):
            # Counters and gauges are in mmapped files then, one set a process; the collector reads and adds them.
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        now = CollectorRegistry()
        now.register(self)
        return bytes(generate_latest(registry) + generate_latest(now))

    def collect(self) -> Iterator[Metric]:
        """Yield the series that are made when asked for: those of the processes, and of the model of the worker that
        answers. Another worker may be a poll behind, and a sum over models would mean nothing."""
        yield from _of_processes()
        predictor = self._models.current
        info = GaugeMetricFamily("gapgate_model_info", "The model that answers.", labels=["name", "version", "receipt"])
        gap = GaugeMetricFamily(
            "gapgate_model_gap_points", "Its gap between train and test accuracy.", labels=["name", "version"]
        )
        if predictor:
            info.add_metric([predictor.model.name, predictor.model.version, predictor.receipt], 1)
            figures = predictor.receipt_answer.receipt["figures"]
            gap.add_metric([predictor.model.name, predictor.model.version], figures.get("gap_points", math.nan))
        yield info
        yield gap
        yield GaugeMetricFamily("gapgate_ready", "1 where there is a model.", value=predictor is not None)
        refused = self._models.refused
        yield GaugeMetricFamily("gapgate_model_refused", "1 where the alias names a version that is refused.", refused)


def _of_processes() -> Iterable[Metric]:
    """Return the series process_* as of other servers, added up over the workers; the limit of open files is that of
    one."""
    totals: dict[str, Metric] = {}
    for pid in _workers():
        for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            if (total := totals.setdefault(metric.name, metric)) is not metric:
                (so_far,), (sample,) = total.samples, metric.samples
                merge = min if metric.name in ("process_start_time_seconds", "process_max_fds") else operator.add
                total.samples = [so_far._replace(value=merge(so_far.value, sample.value))]
    return totals.values()


def _workers() -> list[int]:
    """Process ids of the workers, which are the children of this one's parent if there are several."""
    parent = os.getppid()
    if os.environ.get(DIRECTORY):
        # A kernel without CONFIG_PROC_CHILDREN has no such file (proc(5)): then the figures are of this worker alone.
        with suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return [os.getpid()]


def worker_ended(pid: int) -> None:
    """Remove the gauges of a worker that ended; its counters stay."""
    if directory := os.environ.get(DIRECTORY):
        mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]
