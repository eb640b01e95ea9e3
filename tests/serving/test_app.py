"""The ASGI application by itself: what the server says when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from serving.app import Limits, create_app
from tests.serving.packaged import picture


async def post(limits: Limits, content: bytes | AsyncIterator[bytes]) -> httpx.Response:
    """One request to an application that has no predictor."""
    transport = httpx.ASGITransport(create_app(limits))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/v1/predict", content=content, headers={"content-type": "image/png"})


def test_a_failure_inside_is_an_answer_that_tells_nothing_and_a_log_entry_that_tells_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = asyncio.run(post(Limits(), picture(16, 16)))
    assert response.status_code == 500
    error = response.json()["error"]
    assert error["code"] == "internal"
    assert "predictor" not in error["message"]
    assert "predictor" in caplog.text
    assert error["request_id"] in caplog.text


def test_a_body_that_does_not_arrive_ends_in_a_timeout() -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"\x89PNG"
        await asyncio.sleep(30)

    response = asyncio.run(post(Limits(timeout_s=0.05), stalled()))
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "timeout"
