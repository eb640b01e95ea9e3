"""Requests that a client may send: one to each route, a few wrong ones, and a warm-up before memory is measured."""

from __future__ import annotations

from bench.abuse import hostile_requests
from bench.abuse.raw_client import ask
from bench.abuse.victim import Victim
from bench.http_load import forms, get, http


def picture() -> bytes:
    """A PNG file of 28 px."""
    return hostile_requests.pictures(28)[0]


def prediction(running: Victim) -> bytes:
    """A request for the class of one image."""
    return http(running.url, "/v1/predict", picture(), "image/png")


def warm(running: Victim) -> None:
    """Ask for every route and a photo's decoding, so that memory that grows at first use is there."""
    requests = [*all_kinds(running), http(running.url, "/v1/predict", hostile_requests.large_png(1_500), "image/png")]
    for request in requests * 20:
        ask(running.url, request)


def all_kinds(running: Victim) -> list[bytes]:
    """A request to each route, and some wrong ones; most are predictions."""
    url = running.url
    tensor = bytes(running.tensor_bytes())
    form = forms("image", {"a.png": picture(), "b.png": b"no image"})
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
