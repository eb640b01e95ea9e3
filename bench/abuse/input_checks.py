"""Checks of what is sent: damaged and huge inputs, addresses, broken HTTP; and of a package that was changed."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import http_load
from bench.abuse import hostile_requests
from bench.abuse.raw_client import Connection, ask
from bench.abuse.table import Line
from bench.abuse.usual_requests import picture, prediction, warm
from bench.abuse.victim import Connects, Victim, started, victim
from bench.http_load import forms, get, http
from gapgate.errors import ArtifactError
from gapgate.evidence.sealed import seal

HEADERS_WITH_URLS = (
    *("Referer", "Origin", "X-Forwarded-Host", "Forwarded", "Link"),
    *("X-Request-ID", "Accept", "traceparent", "Destination"),
)


def mutants(bento: Path, less: int) -> Iterator[Line]:
    """Send damaged images, forms, tensors, content types, headers and queries."""
    number = 10_000 // less
    with victim(bento, {"GAPGATE_TIMEOUT_S": "10", "GAPGATE_FORMATS": "+tiff,+avif"}) as running:
        pids = [worker.pid for worker in running.workers()]
        requests = list(itertools.islice(hostile_requests.mutants(running.url, 1, running.tensor_bytes()), number))
        load = http_load.run(running.url, requests, concurrency=8, num_requests=number)
        failed = sum(count for status, count in load.statuses.items() if status >= 500)
        lost = load.dropped + load.refused + number - len(load.latencies_s)
        crashed = [worker.pid for worker in running.workers()] != pids
    answers = ", ".join(f"{count:,} × {status}" for status, count in sorted(load.statuses.items()))
    figure = f"{answers}; {failed} × 5xx, {lost} without answer, slowest {max(load.latencies_s):.2f} s"
    kept = not (failed or lost or crashed) and max(load.latencies_s) < 5
    yield Line(f"{number:,} mutated images and bodies", figure, "no 5xx, no crash, no hang", kept)


def bombs(bento: Path, less: int) -> Iterator[Line]:
    """Send small files that ask for much memory or time."""
    with victim(bento, {"GAPGATE_FORMATS": "+tiff"}) as running:
        warm(running)
        for name, (content_type, data) in hostile_requests.bombs().items():
            request = http(running.url, "/v1/predict", data, content_type)
            seconds = []
            with running.growth() as grown:
                for _ in range(9):
                    begun = time.perf_counter()
                    status = ask(running.url, request).status
                    seconds.append(time.perf_counter() - begun)
            median_ms = 1e3 * statistics.median(seconds)
            figure = f"{status} in {median_ms:.1f} ms, +{grown.peak_mb:.1f} MB"
            kept = 400 <= status < 500 and median_ms < 5 and grown.peak_mb < 10
            yield Line(f"{name} ({len(data):,} B)", figure, "4xx, 5 ms, 10 MB", kept)


def floods(bento: Path, less: int) -> Iterator[Line]:
    """Send TIFF files that make libtiff talk, to a server that takes TIFF."""
    number = 20
    with victim(bento, {"GAPGATE_FORMATS": "+tiff", "GAPGATE_ACCESS_LOG": "true"}) as running:
        files = list(hostile_requests.tiff_floods())
        before = running.server.log.stat().st_size
        begun = time.perf_counter()
        statuses = [
            ask(running.url, http(running.url, "/v1/predict", file, "image/tiff")).status for file in files * number
        ]
        seconds = (time.perf_counter() - begun) / len(statuses)
        ask(running.url, get("/none"))
        # The line of an answer is written behind it; that of /none is the last.
        while b"GET /none" not in (written := running.server.log.read_bytes()[before:]):
            time.sleep(0.01)
        lines = written.splitlines()[:-1]
    strange = sum(not line.startswith(b"{") for line in lines)
    counted = ", ".join(f"{count} × {status}" for status, count in sorted(Counter(statuses).items()))
    figure = f"{counted}; {len(lines)} lines of log, {strange} past logging; {1e3 * seconds:.1f} ms each"
    kept = max(statuses) < 500 and len(lines) == len(statuses) and not strange and seconds < 0.1
    yield Line(f"{len(statuses)} damaged TIFF files, with +tiff", figure, "a line of log each, 100 ms", kept)


def budget(bento: Path, less: int) -> Iterator[Line]:
    """Send many small files that take 400 MB each to a server of two workers with 1 GiB."""
    file = hostile_requests.costly_webp()
    what = f"40 WebP files of 24.9 megapixels ({len(file):,} B) in 1 GiB, 8 at once"
    with victim(bento, {"GAPGATE_WORKERS": "2"}) as running, running.limited(2**30) as is_limited:
        if not is_limited:
            yield Line(what, "not tried: no control group can be made", "root", False)
            return
        pids = [worker.pid for worker in running.workers()]
        request = http(running.url, "/v1/predict", file, "image/webp")
        load = http_load.run(running.url, [request], concurrency=8, num_requests=40)
        survived = [worker.pid for worker in running.workers()] == pids
    counted = ", ".join(f"{count} × {status}" for status, count in sorted(load.statuses.items()))
    figure = f"{counted}; {load.dropped} cut off; {'no' if survived else 'a'} worker killed"
    kept = survived and not load.dropped and load.statuses.keys() <= {200, 429} and load.statuses[200] > 0
    yield Line(what, figure, "200 or 429, no worker killed", kept)


def large_body(bento: Path, less: int) -> Iterator[Line]:
    """Send a body above the limit, with its length announced and not."""
    megabytes = 300
    with victim(bento) as running:
        warm(running)
        for chunked in (False, True):
            with running.growth() as grown, Connection(running.url) as connection:
                _send_large(connection, megabytes, chunked)
                status = connection.answer().status
            how = "chunked" if chunked else "with Content-Length"
            figure = f"{status} read, +{grown.peak_mb:.1f} MB"
            yield Line(f"body of {megabytes} MB, {how}", figure, "413, 20 MB", status == 413 and grown.peak_mb < 20)


def failures(bento: Path, less: int) -> Iterator[Line]:
    """Remove a file under a running server: a failure that is not the client's."""
    with victim(bento) as running:
        (running.folder / "model.onnx").unlink()  # read again for the inner layers, at the first use
        for path in ("/v1/similar", "/v1/explain?feature_maps=true"):
            begun = time.perf_counter()
            answer = ask(running.url, http(running.url, path, picture(), "image/png"))
            taken_ms = 1e3 * (time.perf_counter() - begun)
            told = set(answer.json()["error"]) == {"code", "message", "request_id"}
            leaks = any(word in answer.body for word in (b"Traceback", b'File "', str(running.folder).encode()))
            figure = f"{answer.status} {answer.code} in {taken_ms:.1f} ms"
            kept = answer.status == 500 and told and not leaks and taken_ms < 50
            yield Line(f"failure inside {path}", figure, "one form, 50 ms, no traceback", kept)


def urls(bento: Path, less: int) -> Iterator[Line]:
    """Send addresses wherever text is taken; nobody may be asked."""
    with victim(bento) as running, socket.create_server(("127.0.0.1", 0)) as canary:
        requests = list(_with_urls(running.url, canary.getsockname()[1]))
        with Connects(running.workers()) as connects:
            for request in requests:
                ask(running.url, request)
                connects.look() if not connects.by_strace else None
        canary.settimeout(0.2)
        try:
            canary.accept()
            asked = 1
        except TimeoutError:
            asked = 0
    seen = "strace of connect(2)" if connects.by_strace else "/proc/net"
    figure = f"{len(connects.found)} connections ({seen}), {asked} at the URL's socket"
    yield Line(f"{len(requests)} requests with URLs", figure, "no connection", not connects.found and not asked)


def paths(bento: Path, less: int) -> Iterator[Line]:
    """Ask for paths that are none of the server's."""
    number = 10_000 // less
    with victim(bento) as running:
        ask(running.url, get("/none"))
        ask(running.url, get("/static/none"))
        ask(running.url, get("/v1/receipts/none"))
        running.samples()  # the first look adds the series of /metrics itself
        before = running.samples().keys()
        requests = [get(path) for path in itertools.islice(hostile_requests.random_paths(2), number)]
        load = http_load.run(running.url, requests, concurrency=8, num_requests=number)
        after = running.samples().keys()
    figure = f"{len(after)} series, {len(before)} before; {dict(load.statuses)}"
    yield Line(
        f"{number:,} random paths", figure, "as many series", after == before and len(load.latencies_s) == number
    )


def changed_package(bento: Path, less: int) -> Iterator[Line]:
    """Change one bit of each file at a random place."""
    rng = random.Random(3)
    with TemporaryDirectory(prefix="gapgate-abuse-") as folder, victim(bento) as running:
        copy = Path(shutil.copytree(running.folder, Path(folder, "package")))
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        found = []
        for path in files:
            data = bytearray(path.read_bytes())
            place = rng.randrange(len(data))
            data[place] ^= 1 << rng.randrange(8)
            kept = path.read_bytes()
            path.write_bytes(data)
            try:
                seal.verify(copy)
            except ArtifactError as error:
                found.append(path.name in str(error))
            path.write_bytes(kept)
        seal.verify(copy)
        refusal = _refused_start(running)
    figure = f"{sum(found)} of {len(files)} refused and named; /readyz: {refusal}"
    yield Line(
        "one bit changed in each file of a package",
        figure,
        "all refused",
        all(found) and len(found) == len(files) and "503" in refusal,
    )


def protocol(bento: Path, less: int) -> Iterator[Line]:
    """Speak HTTP that is wrong, endless or unusual."""
    with victim(bento) as running:
        url = running.url
        wrong = [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",  # a TLS ClientHello, from a client that expects https
            b"NONSENSE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
            # Two lengths, and a length beside chunks: a proxy that believes the other one smuggles a second request.
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
            b"POST /v1/predict HTTP/1.1\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ]
        refused = [ask(url, data) for data in wrong]
        all_told = all(answer.status == 400 and answer.code == "bad_request" for answer in refused)
        yield Line(
            f"{len(wrong)} kinds of broken HTTP", f"{sum(a.status == 400 for a in refused)} × 400", "400 each", all_told
        )

        statuses = []
        for line in (b"X-A: " + b"b" * 1000 + b"\r\n", b"x" * 1000):
            with Connection(url) as connection:
                connection.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
                for _ in range(1000):
                    connection.send(line)
                statuses.append(connection.answer().status)
        yield Line("endless headers, and an endless header", f"{statuses}", "431", statuses == [431, 431])

        with Connection(url) as connection:
            connection.send(prediction(running) * 100)
            pipelined = sum(connection.answer().status == 200 for _ in range(100))
        yield Line("100 pipelined requests", f"{pipelined} × 200", "100 × 200", pipelined == 100)


def _with_urls(url: str, port: int) -> Iterator[bytes]:
    """Requests with addresses of the canary's port, and of names that would have to be looked up."""
    image = picture()
    for target in (
        f"http://127.0.0.1:{port}/a.png",
        "http://gapgate-canary.example/a.png",
        f"//127.0.0.1:{port}/a",
        "file:///etc/passwd",
    ):
        everywhere = "".join(f"{name}: {target}\r\n" for name in HEADERS_WITH_URLS)
        form = forms(target, {target: image, "b": target.encode()})
        json_body = json.dumps({"url": target, "image": target, "instances": [{"b64": target}]}).encode()
        for path in ("/v1/predict", "/v1/predict/batch", "/v1/explain", "/v1/similar"):
            yield http(url, f"{path}?url={target}&class={target}&top_k={target}&image={target}", image, "image/png")
            yield http(url, path, image, "image/png", headers=everywhere)
            yield http(url, path, target.encode(), "image/png")
            yield http(url, path, json_body, "application/json")
            yield http(url, path, *form)
            yield http(url, path, image, target)
        yield http(url, target, image, "image/png")
        yield get(f"/v1/receipts/{target}")
        yield get(f"/static/{target}")
        yield f"GET /docs.json HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


def _send_large(connection: Connection, megabytes: int, chunked: bool) -> None:
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {megabytes * 10**6}"
    connection.send(
        f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n{framing}\r\n\r\n".encode()
    )
    piece = bytes(10**6)
    for _ in range(megabytes):
        connection.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
    if chunked:
        connection.send(b"0\r\n\r\n")


def _refused_start(running: Victim) -> str:
    """The answer of `/readyz` from a server whose package was changed."""
    path = running.folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with started(running.folder) as url:
        answer = ask(url, get("/readyz"))
        return f"{answer.status} {answer.json()['error']['message'].rpartition('/')[2]}"
