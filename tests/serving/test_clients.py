"""HTTP clients of several languages and a generated one, each with what it sends by itself: all get the same answers.

BentoML's clients are in test_bentoml.py, Triton's in http/test_inference.py, a browser in http/test_page.py.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3

from serving.run import Server
from tests.serving.packaged import picture

ROOT = Path(__file__).parents[2]
FOREIGN = Path(__file__).parent / "foreign"
UV = shutil.which("uv", path=f"{ROOT / '.uv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
IMAGE = picture(400, 300, seed=4)
DAMAGED = b"no image"
Answers = list[tuple[int, Any]]
"""Status and body of the answers to a form, a file as the body, base64 in JSON, two files, a damaged file."""


@pytest.fixture(scope="module")
def expected(client: httpx.Client) -> Answers:
    return [(answer.status_code, answer.json()) for answer in sent_by(client.post)]


def sent_by(post: Callable[..., Any], address: str = "/v1") -> Iterator[Any]:
    """The answers to the requests by a client that has the arguments of requests and httpx."""
    yield post(f"{address}/predict", files={"image": ("cat.png", IMAGE)})
    yield post(f"{address}/predict", data=IMAGE, headers={"content-type": "image/png"})
    yield post(f"{address}/predict", json={"image": base64.b64encode(IMAGE).decode()})
    yield post(f"{address}/predict/batch", files=[("images", ("1.png", IMAGE)), ("images", ("2.png", IMAGE))])
    yield post(f"{address}/predict", files={"image": ("cat.png", DAMAGED)})


def check(answers: Answers, expected: Answers) -> None:
    assert [status for status, _ in answers] == [200, 200, 200, 200, 400]
    assert [essence(body) for _, body in answers] == [essence(body) for _, body in expected]


def essence(body: Any) -> Any:
    """An answer without what differs from one request to the next."""
    if isinstance(body, dict):
        return {key: essence(value) for key, value in body.items() if key not in ("request_id", "filename")}
    return [essence(value) for value in body] if isinstance(body, list) else body


def test_requests(server: Server, expected: Answers) -> None:
    with requests.Session() as session:
        check([(answer.status_code, answer.json()) for answer in sent_by(session.post, f"{server.url}/v1")], expected)


def test_urllib3(server: Server, expected: Answers) -> None:
    pool = urllib3.PoolManager()

    def post(url: str, *, files: Any = None, data: bytes | None = None, **further: Any) -> Any:
        return pool.request("POST", url, fields=files, **({"body": data} if data else {}), **further)

    check([(answer.status, answer.json()) for answer in sent_by(post, f"{server.url}/v1")], expected)


def test_aiohttp(server: Server, expected: Answers) -> None:
    async def post(session: aiohttp.ClientSession, url: str, *, files: Any = (), **further: Any) -> tuple[int, Any]:
        if files:
            form = further["data"] = aiohttp.FormData()
            for field, (name, content) in files.items() if isinstance(files, dict) else files:
                form.add_field(field, content, filename=name)
        async with session.post(url, **further) as answer:
            return answer.status, await answer.json()

    async def all_at_once() -> Answers:
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*sent_by(partial(post, session), f"{server.url}/v1"))

    check(asyncio.run(all_at_once()), expected)


def program(name: str, *needed: str) -> Any:
    """A program in another language, skipped where its interpreter is not installed."""
    missing = [command for command in needed if shutil.which(command) is None]
    return pytest.param(name, needed[0], marks=pytest.mark.skipif(bool(missing), reason=f"{missing} not installed"))


PROGRAMS = [
    program("curl.sh", "sh", "curl"),
    program("fetch.mjs", "node"),
    program("axios.mjs", "node", "npm"),
    program("Client.java", "java", "javac"),
]


@pytest.mark.parametrize(("name", "interpreter"), PROGRAMS)
def test_a_program_in_another_language(
    server: Server, expected: Answers, name: str, interpreter: str, tmp_path: Path
) -> None:
    file = tmp_path / "cat.png"
    file.write_bytes(IMAGE)
    script = shutil.copy(FOREIGN / name, tmp_path)
    if name == "axios.mjs":
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "axios@1"]
        installed = subprocess.run(npm, capture_output=True, text=True, timeout=120)
        if installed.returncode:
            pytest.skip(f"npm cannot install axios: {installed.stderr.strip()[:200]}")
    command = [interpreter, script, server.url, str(file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    answers = [tuple(json.loads(line)) for line in run.stdout.splitlines()]
    check(answers, expected)


@pytest.mark.skipif(UV is None, reason="uv, which runs openapi-python-client, is not installed")
def test_a_generated_client(server: Server, expected: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By openapi-python-client, without a warning, as docs/serving.md says."""
    page = (ROOT / "docs" / "serving.md").read_text()
    config = page.split("```yaml\n# openapi-python-client.yaml\n")[1].split("```")[0]
    (tmp_path / "openapi-python-client.yaml").write_text(config)
    ((command, _),) = re.findall(r"^uvx (.* generate .*) --url (.*)$", page, re.MULTILINE)
    arguments = [str(UV), "tool", "run", *command.split(), "--url", f"{server.url}/docs.json"]
    run = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    if "Failed to fetch" in run.stderr:
        pytest.skip(f"uv cannot install openapi-python-client: {run.stderr.strip()[:200]}")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "arning" not in run.stdout, run.stdout
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("gapgate_client")
    predict = importlib.import_module("gapgate_client.api.images.predict")
    types = importlib.import_module("gapgate_client.types")
    models = importlib.import_module("gapgate_client.models")
    with made.Client(base_url=server.url) as connected:

        def sent(body: Any) -> tuple[int, Any]:
            answer = predict.sync_detailed(client=connected, body=body)
            return answer.status_code, answer.parsed.to_dict()

        def file(content: bytes) -> Any:
            return types.File(payload=BytesIO(content), file_name="cat.png")

        answers = [
            sent(models.PredictFilesBody(image=file(IMAGE))),
            sent(file(IMAGE)),
            sent(models.PredictJsonBody(image=base64.b64encode(IMAGE).decode())),
            sent(models.PredictFilesBody(image=file(DAMAGED))),
        ]
    assert [(status, essence(body)) for status, body in answers] == [
        (status, essence(body)) for status, body in (*expected[:3], expected[4])
    ]
