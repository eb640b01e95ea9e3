"""Answers on the wire: a head never leaves without the body that belongs to it."""

from __future__ import annotations

import socket

import httpx
import pytest

from serving.run import Server
from tests.serving.packaged import picture

IMAGE = picture(16, 16)


def request(head: str, body: bytes = b"") -> bytes:
    return f"{head}\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def connected(server: Server) -> socket.socket:
    address = httpx.URL(server.url)
    return socket.create_connection((address.host, address.port), 30)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("POST /v1/predict HTTP/1.1\r\nContent-Type: image/png", IMAGE), b"200"),
        (request("POST /v1/predict HTTP/1.1\r\nContent-Type: image/png", b"none"), b"400"),
        (request("GET /readyz HTTP/1.1"), b"200"),
        (request("GET /readyz HTTP/1.1\r\nConnection: close"), b"200"),
        (b"no HTTP\r\n\r\n", b"400"),
    ],
    ids=["an answer", "a refusal", "a probe", "the last on its connection", "no HTTP"],
)
def test_head_and_body_arrive_together(server: Server, sent: bytes, status: bytes) -> None:
    for _ in range(20):
        with connected(server) as connection:
            connection.sendall(sent)
            head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
        assert head.split()[1] == status
        (length,) = (line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        assert len(body) == int(length) > 0


@pytest.mark.parametrize("line", ["HEAD / HTTP/1.1", "HEAD /nowhere HTTP/1.1"])
def test_a_head_without_a_body_arrives_at_once(server: Server, line: str) -> None:
    with connected(server) as connection:
        for _ in range(2):  # the connection is kept
            connection.sendall(request(line))
            assert connection.recv(1 << 16).endswith(b"\r\n\r\n")


def test_a_client_that_asks_before_it_sends_its_body_is_told_to_go_on(server: Server) -> None:
    head = "POST /v1/predict HTTP/1.1\r\nContent-Type: image/png\r\nExpect: 100-continue"
    with connected(server) as connection:
        connection.sendall(request(head, IMAGE).removesuffix(IMAGE))
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(IMAGE)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
