"""The REST service beside a bare server and its rivals, measured side by side.

    gapgate run FASHION_MNIST --set train.architecture=tutorial --set train.epochs=2
    python -m bench.serve --package .gapgate/runs/RUN/model.bento --data FASHION_MNIST

FASHION_MNIST is the folder of its gzipped IDX files. Where the gate stops the model, loosen the gate's limits
(`--set gate.max_gap_points=20 --set gate.min_test_accuracy=0.8 --set gate.min_class_recall=0.5`): speed alone counts
here.

Every server has one worker, one core, one thread of ONNX Runtime, the same model, the same decoding and no access log;
it answers with the five most probable classes (MLflow: with the logits). The client has another core. Each server must
first give the right classes. A server is stopped (SIGSTOP) while another is measured. Rounds alternate; a ratio is of
the medians over the rounds.

    bare             Starlette under uvicorn (uvloop, httptools): the yardstick, `rivals/bare_starlette.py`
    gapgate          `gapgate serve BENTO`
    gapgate-bentoml  the same Bento under `bentoml serve`
    bentoml          an image and an array as `@bentoml.api` takes them (the array as JSON), `rivals/bentoml_form.py`
    fastapi          an `UploadFile`, and a tensor as the body, `rivals/fastapi_app.py`
    litserve         `rivals/litserve_app.py`
    mlflow           `mlflow models serve` of the ONNX flavour; the array as JSON
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from bench.http_load import Load
from bench.serve import report
from bench.serve.contestants import BATCH, Picture, contestants
from bench.serve.inputs import IMAGES, environment_mb, open_package, read_pictures
from bench.serve.rivals.model import Model
from bench.serve.server import Contestant, Server

NUM_PICTURES = 256
CONCURRENCY = 16
RATES = {"multipart": "multipart PNG", "png": "PNG as the body", "tensor": "tensor"}
"""Row → its title; measured in requests/s."""
BATCHES = {
    "batch": f"{BATCH} tensors in a request",
    "batch multipart": f"{BATCH} PNG files in a request",
}
"""Row → its title; measured in images/s, one request after the other."""
REQUESTS_A_BATCH = 16
"""Requests of the other rows for each batch request."""
RESTARTED = ("bare", "gapgate")
"""Started anew in each round, for the time that it takes and for the first answers of a server."""
ROUND_S = 2.0
"""A slow server need not answer all requests of a round."""
BURST_CONCURRENCY = 64
BURST_S = 1.5


@dataclass(frozen=True, slots=True)
class Life:
    """The first seconds of a server."""

    start_s: float
    """From its command to its first answer."""
    fresh_ms: float
    """Median latency of one client, before any other load."""
    after_ms: float
    """The same, within one second after a burst."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tests_data = Path(os.environ.get("GAPGATE_TEST_DATA", "."))
    parser.add_argument("--package", type=Path, help="a .bento file, or a folder with the package's files")
    parser.add_argument("--data", type=Path, default=tests_data / "fashion-mnist", help="folder of gzipped IDX files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000, help="requests in a round")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these and `bare`")
    parser.add_argument("--environment", action="store_true", help="install the Bento's requirements, for their size")
    args = parser.parse_args(argv)
    if not (args.data / IMAGES).is_file():
        parser.error(f"{args.data} has no {IMAGES}; name the folder with --data")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("the server and the client need a core each, and there is but one")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)

    client_core, server_core = cores[:2]
    os.sched_setaffinity(0, {client_core})
    package = open_package(args.package)
    model = Model(package.model_folder)
    pictures = read_pictures(args.data, NUM_PICTURES, model)
    entered = contestants(package, pictures, args.only)
    print(f"server on core {server_core}, client on core {client_core}")
    print(f"{args.rounds} rounds of {args.requests:,} requests; medians, [smallest, largest]", flush=True)
    with ExitStack() as stack:
        servers, lives = _start(stack, entered, server_core, args.rounds)
        rows = {row: _answering(servers, row) for row in (*RATES, *BATCHES)}
        direct = _direct(model, pictures, server_core)
        rates: dict[str, dict[str, list[Load]]] = {row: defaultdict(list) for row in rows}
        direct_rates: dict[str, list[float]] = defaultdict(list)
        for _ in range(args.rounds):
            for row, asked in rows.items():
                for server in asked:
                    rates[row][server.contestant.name].append(_measure(server, row, args.requests))
            for row, rate in direct.items():
                direct_rates[row].append(rate(max(1, args.requests // REQUESTS_A_BATCH)))
        _report_rates(rates)
        _report_batches(rates, direct_rates)
        _report_lives(lives)
        _report_memory(servers)
    if args.environment:
        installed, with_bytecode = environment_mb(package)
        report.figure("environment", installed, "MB")
        report.figure("environment with bytecode", with_bytecode, "MB")
    return 0


def _end(number: int, frame: object) -> NoReturn:
    """Leave by an exception, so that the servers are ended; a second signal must not cut that short."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _start(
    stack: ExitStack, entered: Sequence[Contestant], core: int, rounds: int
) -> tuple[list[Server], dict[str, list[Life]]]:
    """All servers, of each its first seconds, and the first seconds of others of those that are started anew."""
    servers = []
    lives: dict[str, list[Life]] = defaultdict(list)
    for contestant in entered:
        servers.append(stack.enter_context(Server(contestant, core)))
        lives[contestant.name].append(_life(servers[-1]))
    for _ in range(rounds - 1):
        for contestant in entered:
            if contestant.name in RESTARTED:
                with Server(contestant, core) as server:
                    lives[contestant.name].append(_life(server))
    return servers, lives


def _life(server: Server) -> Life:
    row = next(iter(server.contestant.routes))
    with server.running():
        server.load(row, 1, num_requests=200)
        fresh = server.load(row, 1, num_requests=400)
        server.load(row, BURST_CONCURRENCY, seconds=BURST_S, may_refuse=True)
        after = server.load(row, 1, seconds=1.0)
    return Life(server.start_s, _median_ms(fresh), _median_ms(after))


def _answering(servers: Sequence[Server], row: str) -> list[Server]:
    """Those that take this input and give the right classes; the others are named."""
    right = []
    for server in servers:
        if row in server.contestant.routes:
            if wrong := server.check(row):
                print(f"not measured: {server.contestant.name}, {row}: {wrong}")
            else:
                right.append(server)
    return right


def _measure(server: Server, row: str, num_requests: int) -> Load:
    with server.running():
        if row in BATCHES:
            server.load(row, 1, num_requests=2)
            return server.load(row, 1, num_requests=max(1, num_requests // REQUESTS_A_BATCH))
        server.load(row, CONCURRENCY, num_requests=4 * CONCURRENCY)
        return server.load(row, CONCURRENCY, num_requests=num_requests, seconds=ROUND_S)


def _direct(model: Model, pictures: Sequence[Picture], core: int) -> dict[str, Callable[[int], float]]:
    """Row → what gives the images/s of so many calls with a batch each, in this process, on the servers' core."""
    batches = [
        (np.stack([picture.pixels for picture in batch]), [picture.png for picture in batch])
        for batch in (pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH))
    ]

    def rate(run: Callable[[np.ndarray, list[bytes]], object], num_calls: int) -> float:
        with _on_core(core):
            run(*batches[0])
            started = time.perf_counter()
            for index in range(num_calls):
                run(*batches[index % len(batches)])
            return num_calls * BATCH / (time.perf_counter() - started)

    return {
        "batch": lambda calls: rate(lambda images, files: model.logits(images), calls),
        "batch multipart": lambda calls: rate(
            lambda images, files: model.logits(np.stack([model.decode(file) for file in files])), calls
        ),
    }


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _report_rates(rates: Mapping[str, Mapping[str, Sequence[Load]]]) -> None:
    for row, title in RATES.items():
        report.section(f"{title}, concurrency {CONCURRENCY}", "requests/s", "p50 ms", "p99 ms")
        for name, loads in rates[row].items():
            percentiles = [np.percentile(load.latencies_s, (50, 99)) * 1e3 for load in loads]
            p50, p99 = zip(*percentiles, strict=True)
            report.row(name, [load.rate for load in loads], p50, p99)
        report.ratios(row, {name: [load.rate for load in loads] for name, loads in rates[row].items()}, "bare")


def _report_batches(rates: Mapping[str, Mapping[str, Sequence[Load]]], direct: Mapping[str, Sequence[float]]) -> None:
    directly = {"batch": "ONNX Runtime, called directly", "batch multipart": "decoded and called directly"}
    for row, title in BATCHES.items():
        figures = {directly[row]: direct[row]} | {
            name: [load.rate * BATCH for load in loads] for name, loads in rates[row].items()
        }
        report.section(title, "images/s")
        for name, values in figures.items():
            report.row(name, values)
        report.ratios(row, figures, directly[row])


def _report_lives(lives: Mapping[str, Sequence[Life]]) -> None:
    report.section(f"one client, a burst of {BURST_CONCURRENCY}, start", "fresh p50 ms", "p50 ms after it", "start s")
    for name, each in lives.items():
        fresh, after = [life.fresh_ms for life in each], [life.after_ms for life in each]
        report.row(name, fresh, after, [life.start_s for life in each])
    for name, each in lives.items():
        fresh, after = [life.fresh_ms for life in each], [life.after_ms for life in each]
        report.ratio(f"{name} burst", statistics.median(after) / statistics.median(fresh))
    for name, each in lives.items():
        report.figure(f"start {name}", statistics.median(life.start_s for life in each), "s")


def _report_memory(servers: Sequence[Server]) -> None:
    """Of the worker, the largest process without children; and of all the server's processes together."""
    report.section("memory after all loads, MB", "worker RSS", "worker USS", "all processes' PSS", "processes")
    worker_mb = {}
    for server in servers:
        name, tree = server.contestant.name, server.processes()
        parents = {process.ppid() for process in tree}
        used = {process.pid: process.memory_full_info() for process in tree}
        worker = max((used[pid] for pid in used if pid not in parents), key=lambda memory: memory.rss)
        worker_mb[name] = worker.rss / 1e6
        report.once(name, worker_mb[name], worker.uss / 1e6, sum(each.pss for each in used.values()) / 1e6, len(tree))
    for name, megabytes in worker_mb.items():
        report.figure(f"memory {name}", megabytes, "MB")


def _median_ms(load: Load) -> float:
    return statistics.median(load.latencies_s) * 1e3


if __name__ == "__main__":
    sys.exit(main())
