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
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from bench import fashion_mnist
from bench.http_load import Load
from bench.serve import report, rounds
from bench.serve.contestants import contestants
from bench.serve.inputs import environment_mb, open_package, read_pictures
from bench.serve.rivals.model import Model

NUM_PICTURES = 256


def main(argv: list[str] | None = None) -> int:
    """Start every server, measure all rows in turn, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="a .bento file, or a folder with the package's files")
    fashion_mnist.add_option(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000, help="requests in a round")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these and `bare`")
    parser.add_argument("--environment", action="store_true", help="install the Bento's requirements, for their size")
    args = parser.parse_args(argv)
    fashion_mnist.require(parser, args.data, "test")
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
        servers, lives = rounds.start(stack, entered, server_core, args.rounds)
        rows = {row: rounds.answering(servers, row) for row in (*rounds.RATES, *rounds.BATCHES)}
        direct = rounds.call_directly(model, pictures, server_core)
        loads: dict[str, dict[str, list[Load]]] = {row: defaultdict(list) for row in rows}
        direct_rates: dict[str, list[float]] = defaultdict(list)
        for _ in range(args.rounds):
            for row, asked in rows.items():
                for server in asked:
                    loads[row][server.contestant.name].append(rounds.measure(server, row, args.requests))
            for row, rate in direct.items():
                direct_rates[row].append(rate(max(1, args.requests // rounds.REQUESTS_A_BATCH)))
        report.rates(loads)
        report.batches(loads, direct_rates)
        report.lives(lives)
        report.memory(servers)
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


if __name__ == "__main__":
    sys.exit(main())
