"""What the checks of `bench.abuse` share: a row of its table, usual requests, and a look at the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from bench import http_load
from bench.abuse import hostile_requests
from bench.abuse.hostile_requests import http
from bench.abuse.raw_client import ask
from bench.abuse.victim import Victim


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table."""

    done: str
    figure: str
    limit: str
    is_kept: bool


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1", "replace")


def picture() -> bytes:
    return hostile_requests.pictures(28)[0]


def tensor_bytes(running: Victim) -> int:
    shape = ask(running.url, get("/v1/model")).json()["input"]
    return int(shape["height"] * shape["width"] * shape["channels"])


def warm(running: Victim) -> None:
    """So that growth is not that of first use: every route and a photo's decoding."""
    requests = [*all_kinds(running), http(running.url, "/v1/predict", hostile_requests.large_png(1_500), "image/png")]
    for request in requests * 20:
        ask(running.url, request)


def all_kinds(running: Victim) -> list[bytes]:
    """A request to each route, and some wrong ones; predictions are the most."""
    url = running.url
    tensor = bytes(tensor_bytes(running))
    form = http_load.forms("image", {"a.png": picture(), "b.png": b"no image"})
    predictions = [http(url, "/v1/predict", data, "image/png") for data in hostile_requests.pictures(28)]
    return [
        *predictions * 4,
        http(url, "/v1/predict", tensor, "application/octet-stream"),
        http(url, "/v1/predict", *form),
        http(url, "/v1/predict/batch", *form),
        http(url, "/v1/predict/batch", tensor * 8, "application/octet-stream"),
        http(url, "/v1/explain", picture(), "image/png"),
        http(url, "/v1/similar", picture(), "image/png"),
        http(url, "/v1/predict", b"no image", "image/png"),
        http(url, "/v1/predict", b"{}", "application/json"),
        *(get(path) for path in ("/v1/model", "/livez", "/readyz", "/metrics", "/nowhere", "/v1/receipts/none")),
    ]


def series(running: Victim) -> set[str]:
    text = ask(running.url, get("/metrics")).body.decode()
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def sample(running: Victim, name: str) -> float:
    text = ask(running.url, get("/metrics")).body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
