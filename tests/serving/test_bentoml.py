"""The Bento in the hands of BentoML's users: its own clients, its own server, composition, and its own description."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bentoml
import httpx
import pytest
import yaml
from bentoml.exceptions import BentoMLException

from gapgate.artifacts import Artifact
from gapgate.evidence.sealed.archive import unpack
from gapgate.process import child_server
from serving.description.bentoml_schema import schema
from serving.http.form import FormError, TooManyFilesError, parse_pickled_files
from serving.http.routes import ROUTES
from serving.run import Server, serve
from serving.service import GapgateService
from tests.serving.packaged import picture

KEY = "correct-horse"
KEYED = {"GAPGATE_API_KEYS": hashlib.sha256(KEY.encode()).hexdigest()}
FRONT = """
import sys
from pathlib import Path

sys.path.insert(0, {source!r})

import bentoml
from serving.service import GapgateService


@bentoml.service(traffic={{"timeout": 60}})
class Front:
    model = bentoml.depends(GapgateService)

    @bentoml.api
    async def both(self, image: Path) -> dict:
        one = await self.model.predict(image=image)
        two = await self.model.predict_batch(images=[image, image])
        try:
            await self.model.predict(image=Path(__file__))
        except bentoml.exceptions.BentoMLException as error:
            return {{"one": one, "two": two, "refused": str(error)}}
"""


@pytest.fixture(scope="module")
def bento_folder(bento: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(bento.path / "model.bento", tmp_path_factory.mktemp("unpacked") / "bento")


def bentoml_serve(what: str, cwd: Path, work_dir: Path, **environment: str) -> Server:
    """A server of BentoML's own."""
    port = child_server.free_port()
    variables = {"BENTOML_HOME": str(work_dir / "home"), "BENTOML_DO_NOT_TRACK": "True", **environment}
    command = [sys.executable, "-m", "bentoml", "serve", what, "--host", "127.0.0.1", "--port", str(port)]
    process = child_server.start(command, work_dir / "log", cwd=cwd, env=os.environ | variables)
    return Server(process, f"http://127.0.0.1:{port}", work_dir / "log")


@pytest.fixture(scope="module")
def under_bentoml(bento_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with bentoml_serve(str(bento_folder), Path("/"), tmp_path_factory.mktemp("bentoml"), **KEYED) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def keyed(bento: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work_dir = tmp_path_factory.mktemp("keyed")
    with serve(bento.path / "model.bento", work_dir=work_dir, environment=KEYED) as running:
        running.wait_ready()
        yield running


@pytest.fixture(params=["ours", "bentoml"])
def each(request: pytest.FixtureRequest) -> Server:
    """Our own server and BentoML's, both with a key."""
    running: Server = request.getfixturevalue({"ours": "keyed", "bentoml": "under_bentoml"}[request.param])
    return running


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        path.write_bytes(picture(20, 30, seed=seed))
    return paths


@contextmanager
def client_of(url: str, **options: Any) -> Iterator[Any]:
    with bentoml.SyncHTTPClient(url, **options) as client, without_temporary_folder(client):
        yield client


@contextmanager
def without_temporary_folder(client: Any) -> Iterator[None]:
    """A client leaves its folder to the garbage collector, which warns."""
    try:
        yield
    finally:
        client._temp_dir.cleanup()


def plain(server: Server, image: Path) -> dict[str, Any]:
    """The answer to a plain request."""
    headers = {"content-type": "image/png", "x-api-key": KEY}
    answer: dict[str, Any] = httpx.post(f"{server.url}/v1/predict", content=image.read_bytes(), headers=headers).json()
    return answer


def same(answer: dict[str, Any], other: dict[str, Any]) -> bool:
    fields = ("class", "confidence", "probabilities", "model", "receipt")
    return {name: answer[name] for name in fields} == {name: other[name] for name in fields}


def test_the_client_of_bentoml_gets_the_answers_of_the_service(each: Server, images: list[Path]) -> None:
    with client_of(each.url, token=KEY) as client:
        assert same(client.predict(image=images[0]), plain(each, images[0]))
        assert same(client.predict(images[0]), plain(each, images[0]))
        batch = client.predict_batch(images=images)
        assert [found["probabilities"] for found in batch["results"]] == [
            pytest.approx(plain(each, image)["probabilities"], rel=1e-5) for image in images
        ]
        assert [found["filename"] for found in batch["results"]] == ["0.png", "1.png", "2.png"]
        assert client.explain(image=images[0])["method"] == "occlusion"
        assert client.similar(image=images[0])["neighbours"]
        assert client.is_ready()


def test_the_asynchronous_client_of_bentoml_too(each: Server, images: list[Path]) -> None:
    # One after the other: a call of this client closes the files of those that are under way (BentoML 1.4.39).
    async def ask() -> list[dict[str, Any]]:
        async with bentoml.AsyncHTTPClient(each.url, token=KEY) as client:
            with without_temporary_folder(client):
                return [await client.predict(image=image) for image in images]

    assert all(same(answer, plain(each, image)) for answer, image in zip(asyncio.run(ask()), images, strict=True))


def test_bentoml_never_answers_a_declared_route_itself(each: Server, images: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:-30])
    with client_of(each.url) as client, pytest.raises(BentoMLException, match="unauthorized"):
        client.predict(image=images[0])
    with client_of(each.url, token=KEY) as client, pytest.raises(BentoMLException, match="invalid_image"):
        client.predict(image=broken)
    for route in schema(ROUTES)["routes"]:
        assert httpx.post(each.url + route["route"], json={"image": "http://127.0.0.1:1/"}).status_code == 401
        answer = httpx.post(
            each.url + route["route"], json={"image": "http://127.0.0.1:1/"}, headers={"x-api-key": KEY}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
        assert "x-request-id" in answer.headers


def test_the_schema_and_the_health_are_those_that_bentoml_gives(each: Server) -> None:
    assert schema(ROUTES) == json.loads(json.dumps(GapgateService.schema()))
    assert httpx.get(f"{each.url}/schema.json").json() == schema(ROUTES)
    assert httpx.get(f"{each.url}/healthz").status_code == 200


def test_the_bento_describes_its_routes(bento_folder: Path) -> None:
    described = yaml.safe_load((bento_folder / "bento.yaml").read_text())["schema"]
    assert {route["name"]: route["route"] for route in described["routes"]} == {
        "predict": "/v1/predict",
        "predict_batch": "/v1/predict/batch",
        "explain": "/v1/explain",
        "similar": "/v1/similar",
    }
    paths = yaml.safe_load((bento_folder / "apis" / "openapi.yaml").read_text())["paths"]
    assert set(paths) > {route["route"] for route in described["routes"]}
    content = paths["/v1/predict"]["post"]["requestBody"]["content"]
    assert list(content) == ["multipart/form-data"]
    assert json.loads((bento_folder / "apis" / "schema.json").read_text()) == described


def test_another_service_composes_it_by_depends(
    keyed: Server, bento_folder: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "front.py").write_text(FRONT.format(source=str(bento_folder / "src")))
    # The service that depends takes its key from this variable of BentoML's.
    environment = {**KEYED, "BENTO_CLOUD_API_KEY": KEY}
    with (
        bentoml_serve("front:Front", tmp_path, tmp_path, **environment) as running,
        client_of(running.url, server_ready_timeout=60, timeout=60) as client,
    ):
        answer = client.both(image=images[0])
    expected = plain(keyed, images[0])
    assert same(answer["one"], expected)
    assert [found["class"] for found in answer["two"]["results"]] == [expected["class"]] * 2
    assert "invalid_image" in answer["refused"]


def test_it_composes_in_one_process_without_a_server(
    keyed: Server, bento_folder: Path, images: list[Path], tmp_path: Path
) -> None:
    script = (
        "import asyncio, bentoml, json, sys; from pathlib import Path\n"
        f"service = bentoml.load({str(bento_folder)!r})()\n"
        "print(json.dumps(asyncio.run(service.predict(image=Path(sys.argv[1])))))\n"
        "try: asyncio.run(service.predict(image=Path(json.__file__)))\n"
        "except bentoml.exceptions.BentoMLException as error: print(error.error_code.value)\n"
    )
    command = [sys.executable, "-c", script, str(images[0])]
    environment = os.environ | {"BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"} | KEYED
    process = child_server.start(command, tmp_path / "log", cwd=tmp_path, env=environment)
    process.wait(60)
    *_, answer, refusal = (tmp_path / "log").read_text().splitlines()
    assert same(json.loads(answer), plain(keyed, images[0]))
    assert refusal == "400"


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_a_pickle_is_read_and_never_run(capsys: pytest.CaptureFixture[str]) -> None:
    files = parse_pickled_files(pickle.dumps({"images": [b"one", b"\0" * 70_000, b"three"]}, protocol=5), 3)
    assert [(file.field, file.data) for file in files] == [
        ("images", b"one"),
        ("images", b"\0" * 70_000),
        ("images", b"three"),
    ]
    with pytest.raises(TooManyFilesError):
        parse_pickled_files(pickle.dumps({"images": [b"1", b"2"]}), 1)
    for bad in (pickle.dumps(Evil()), pickle.dumps({"image": 1}), b"\x80\x05.", b"", b"\x80\x05" + b"]" * 10_000):
        if bad != b"\x80\x05.":
            with pytest.raises(FormError):
                parse_pickled_files(bad, 8)
    assert parse_pickled_files(b"\x80\x05.", 8) == []
    assert capsys.readouterr().out == ""
