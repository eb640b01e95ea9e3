"""What a server must not do, whatever it is sent. `python -m bench.abuse` does the same at length, with figures."""

from __future__ import annotations

import itertools
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import http_load
from bench.abuse import hostile_requests
from bench.abuse.raw_client import Answer, Connection, ask
from bench.abuse.victim import Connects, Victim, started, victim
from bench.http_load import http
from gapgate.artifacts import Artifact
from gapgate.errors import ArtifactError
from gapgate.evidence.sealed import seal
from tests.serving.packaged import SIZE_PX, picture

LARGE_MB = 60


@pytest.fixture(scope="module")
def running(bento: Artifact) -> Iterator[Victim]:
    with victim(bento.path / "model.bento", {"GAPGATE_TIMEOUT_S": "10"}) as found:
        for request in (predict(found.url, picture(1_500, 1_500)), get("/metrics"), get("/docs.json")):
            assert ask(found.url, request).status == 200
        yield found


@pytest.fixture(scope="module")
def photograph_s(running: Victim) -> float:
    """Processor time of the server for a photograph of 16 megapixels, counted by the system in hundredths."""
    before_s = running.cpu_s()
    for _ in range(2):
        assert (
            ask(running.url, http(running.url, "/v1/predict", picture(4_000, 4_000, "JPEG"), "image/jpeg")).status
            == 200
        )
    return (running.cpu_s() - before_s) / 2


def get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode("latin-1")


def predict(url: str, data: bytes | None = None, headers: str = "") -> bytes:
    return http(url, "/v1/predict", picture(16, 16) if data is None else data, "image/png", headers=headers)


def assert_is_error(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.code) == (status, code)
    assert set(answer.json()["error"]) == {"code", "message", "request_id"}
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"


def test_damaged_images_and_bodies_are_the_clients_errors_and_crash_nothing(running: Victim) -> None:
    number = 2_000
    pids = [worker.pid for worker in running.workers()]
    requests = list(itertools.islice(hostile_requests.mutants(running.url, 5, SIZE_PX * SIZE_PX), number))
    load = http_load.run(running.url, requests, concurrency=8, num_requests=number)
    assert set(load.statuses) <= {200, 400, 403, 413, 415, 422}  # 403: some say that a proxy passed them on
    assert load.statuses[400] > number / 2
    assert sum(load.statuses.values()) == number
    assert (load.dropped, load.refused) == (0, 0)
    assert [worker.pid for worker in running.workers()] == pids


@pytest.mark.parametrize("name", hostile_requests.bombs())
def test_a_decompression_bomb_costs_less_than_a_photograph(running: Victim, photograph_s: float, name: str) -> None:
    content_type, data = hostile_requests.bombs()[name]
    before_s = running.cpu_s()
    with running.growth() as grown:
        answer = ask(running.url, http(running.url, "/v1/predict", data, content_type))
    assert_is_error(answer, 400, "invalid_image")
    assert running.cpu_s() - before_s < photograph_s
    assert grown.peak_mb < 20


@pytest.mark.parametrize("framing", ["Content-Length: 60000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(("path", "status"), [("/v1/predict", 413), ("/v1/nothing", 404), ("/v1/model", 405)])
def test_who_sends_a_body_far_too_large_gets_to_read_why_and_the_server_keeps_none_of_it(
    running: Victim, path: str, status: int, framing: str
) -> None:
    piece = bytes(10**6)
    with running.growth() as grown, Connection(running.url) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n{framing}\r\n\r\n"
        connection.send(head.encode())
        for _ in range(LARGE_MB):
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece) if "chunked" in framing else piece)
        connection.send(b"0\r\n\r\n" if "chunked" in framing else b"")
        answer = connection.answer()
        assert answer.headers["connection"] == "close"
        assert connection.is_closed()
    assert answer.status == status
    assert grown.peak_mb < 20


def test_a_failure_inside_is_told_in_the_one_form_and_without_a_traceback(bento: Artifact) -> None:
    with victim(bento.path / "model.bento") as running:
        (running.folder / "model.onnx").unlink()  # read again for the inner layers, at the first use
        answer = ask(running.url, http(running.url, "/v1/similar", picture(16, 16), "image/png"))
        assert_is_error(answer, 500, "internal")
        for word in (b"Traceback", b'File "', b"model.onnx", str(running.folder).encode()):
            assert word not in answer.body
        assert "Traceback" in running.server.log.read_text()
        assert ask(running.url, predict(running.url)).status == 200


def test_no_address_in_any_field_is_ever_asked(running: Victim) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary, Connects(running.workers()) as connects:
        port = canary.getsockname()[1]
        for target in (f"http://127.0.0.1:{port}/a.png", "http://gapgate-canary.example/a.png", "file:///etc/passwd"):
            headers = f"Referer: {target}\r\nOrigin: {target}\r\nLink: <{target}>\r\n"
            form, form_type = http_load.forms(target, {target: picture(16, 16)})
            for path in ("/v1/predict", "/v1/explain", "/v1/similar"):
                image = picture(16, 16)
                ask(running.url, http(running.url, f"{path}?url={target}&class={target}", image, "image/png"))
                assert ask(running.url, http(running.url, path, image, "image/png", headers=headers)).status == 200
                assert ask(running.url, http(running.url, path, form, form_type)).status == 200
                assert ask(running.url, http(running.url, path, target.encode(), "image/png")).status == 400
                for body in (f'{{"url": "{target}"}}', f'{{"image": "{target}"}}', f'{{"image": "data:,{target}"}}'):
                    assert ask(running.url, http(running.url, path, body.encode(), "application/json")).status == 400
            connects.look()
        canary.setblocking(False)  # who has connected waits in the queue of the socket
        with pytest.raises(BlockingIOError):
            canary.accept()
    assert connects.found == set()


def test_paths_at_random_add_nothing_to_the_metrics(running: Victim) -> None:
    def series() -> set[str]:
        text = ask(running.url, get("/metrics")).body.decode()
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

    for path in ("/none", "/static/none", "/v1/receipts/none", "/metrics"):
        ask(running.url, get(path))
    before = series()
    requests = [get(path) for path in itertools.islice(hostile_requests.random_paths(7), 1_000)]
    load = http_load.run(running.url, requests, concurrency=8, num_requests=1_000)
    assert sum(load.statuses.values()) == 1_000
    assert series() == before


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT example.com:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nhost: example.com\r\n\r\n",
        b"GET /livez HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: a\r\n folded: b\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=[
        *("TLS", "method", "CONNECT", "bytes", "no host", "two hosts", "two hosts of old", "folded"),
        *("two lengths", "length, chunks", "negative", "huge", "chunk"),
    ],
)
def test_broken_http_is_refused_in_the_one_form(running: Victim, data: bytes) -> None:
    with Connection(running.url) as connection:
        assert_is_error(connection.ask(data), 400, "bad_request")
        assert connection.is_closed()


@pytest.mark.parametrize("line", [b"X-A: " + b"b" * 1_000 + b"\r\n", b"x" * 1_000], ids=["many", "one"])
def test_headers_without_end_are_refused(running: Victim, line: bytes) -> None:
    with running.growth() as grown, Connection(running.url) as connection:
        connection.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(1_000):
            connection.send(line)
        assert_is_error(connection.answer(), 431, "headers_too_large")
    assert grown.peak_mb < 10


def test_an_address_of_64_kib_is_too_large(running: Victim) -> None:
    with Connection(running.url) as connection:
        address = b"/v1/model?x=" + b"a" * 65_536
        connection.send(b"GET " + address + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert_is_error(connection.answer(), 431, "headers_too_large")


def test_headers_after_a_large_body_are_counted_for_themselves(running: Victim) -> None:
    with Connection(running.url) as connection:
        for _ in range(3):
            assert connection.ask(predict(running.url, bytes(500_000))).status == 400
        assert connection.ask(get("/livez", "X-A: " + "b" * 50_000 + "\r\n")).status == 200


def test_pipelined_requests_are_all_answered_even_where_garbage_follows(running: Victim) -> None:
    with Connection(running.url) as connection:
        connection.send(predict(running.url) * 20 + b"\0garbage\r\n\r\n")
        assert [connection.answer().status for _ in range(20)] == [200] * 20
        assert connection.is_closed()


def test_old_and_unusual_http_is_answered(running: Victim) -> None:
    with Connection(running.url) as connection:
        old = connection.ask(b"GET /livez HTTP/1.0\r\n\r\n")
        assert (old.status, old.headers["connection"]) == (200, "close")
        assert connection.is_closed()
    with Connection(running.url) as connection:
        connection.send(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.socket.recv(1_000), b""))
        assert received.startswith(b"HTTP/1.1 200")
        assert received.endswith(b"\r\n\r\n")
    data = picture(16, 16)
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:10], data[10:])) + b"0\r\n\r\n"
    assert ask(running.url, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks).status == 200
    with Connection(running.url) as connection:
        connection.send(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(data))
        assert connection.socket.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.ask(data).status == 200
    too_large = ask(running.url, head + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n")
    assert_is_error(too_large, 413, "body_too_large")


def test_a_wish_for_another_protocol_is_passed_over(running: Victim) -> None:
    h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    with Connection(running.url) as connection:
        for headers in (h2c, websocket, ""):
            assert connection.ask(predict(running.url, headers=headers)).status == 200
            assert connection.ask(get("/livez", headers)).status == 200


@pytest.mark.parametrize("given", ["a b", "a\tb", "<script>", '"', "é", "x" * 129, "a;b", "{}"])
def test_an_unfit_request_id_is_not_sent_back(running: Victim, given: str) -> None:
    answer = ask(running.url, get("/livez", f"X-Request-ID: {given}\r\n"))
    assert answer.status == 200
    assert len(answer.headers["x-request-id"]) == 32


def test_a_client_that_goes_away_stops_its_batch(running: Victim) -> None:
    name = 'gapgate_requests_total{route="/v1/predict/batch",status="499"}'
    large = hostile_requests.large_png(3_000)
    before_s = running.cpu_s()
    assert ask(running.url, predict(running.url, large)).status == 200
    one_s = running.cpu_s() - before_s
    form, form_type = http_load.forms("f", {f"{index}.png": large for index in range(100)})
    request = http(running.url, "/v1/predict/batch", form, form_type)
    with Connection(running.url) as connection:
        connection.send(request)
        before_s = running.cpu_s()
        wait_for(lambda: running.cpu_s() - before_s > 3 * one_s)
    wait_for(lambda: f"{name} 1.0" in ask(running.url, get("/metrics")).body.decode())
    wait_for(lambda: is_idle(running))
    assert running.cpu_s() - before_s < 50 * one_s


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_idle(running: Victim) -> bool:
    """Whether the server computes nothing for a second."""
    before_s = running.cpu_s()
    time.sleep(1)
    return running.cpu_s() - before_s < 0.05


def test_a_package_with_one_bit_changed_in_any_file_is_refused(package_dir: Path) -> None:
    rng = random.Random(11)
    files = sorted(path for path in package_dir.rglob("*") if path.is_file())
    assert len(files) > 15
    for path in files:
        data = path.read_bytes()
        place = rng.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
        with pytest.raises(ArtifactError, match=path.name):
            seal.verify(package_dir)
        path.write_bytes(data)
    assert seal.verify(package_dir).startswith("sha256:")


def test_a_server_of_a_changed_package_stays_up_and_says_why_it_is_not_ready(bento: Artifact, tmp_path: Path) -> None:
    with victim(bento.path / "model.bento") as running:
        copy = Path(shutil.copytree(running.folder.parent, tmp_path / "src")) / "model"
    golden = copy / "golden" / "palette.png"
    golden.write_bytes(golden.read_bytes() + b"\0")
    with started(copy) as url:
        answer = ask(url, get("/readyz"))
        assert_is_error(answer, 503, "refused")
        assert "palette.png was changed" in answer.json()["error"]["message"]
        assert ask(url, get("/livez")).status == 200
        assert_is_error(ask(url, predict(url)), 503, "refused")
