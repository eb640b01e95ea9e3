"""The ASGI application by itself: what it says when it has no model, when it fails, and to whom."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import shutil
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.types import ASGIApp

from gapgate.errors import ServeError, SettingsError
from serving.http.access import check_address
from serving.http.app import create_app
from serving.model.predictor import Predictor
from serving.options import Options, is_loopback, table, unknown, variable
from tests.serving import packaged
from tests.serving.packaged import picture

PNG = {"content-type": "image/png"}
KEY = "correct-horse"
HASH = hashlib.sha256(KEY.encode()).hexdigest()


def ask(called: ASGIApp, method: str, path: str, *, client: str = "127.0.0.1", **request: Any) -> httpx.Response:
    """One request from the address `client`."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(called, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as connected:
            return await connected.request(method, path, **request)

    return asyncio.run(send())


def started(package: Path, **options: Any) -> ASGIApp:
    app, called = create_app(Options(**options), package)
    app.start()
    return called


def code(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return str(error["code"])


def test_before_the_model_is_loaded_the_server_lives_and_is_not_ready() -> None:
    _, called = create_app(Options(), Path("none"))
    assert ask(called, "GET", "/livez").json() == {"status": "live"}
    for method, path in (("GET", "/readyz"), ("GET", "/v1/model"), ("POST", "/v1/predict")):
        response = ask(called, method, path, content=picture(16, 16), headers=PNG)
        assert (response.status_code, code(response)) == (503, "starting")
        assert response.headers["retry-after"] == "1"


def test_a_refused_package_leaves_the_server_not_ready_with_the_reason(package_dir: Path) -> None:
    registration = package_dir / "registration.json"
    registration.write_text(registration.read_text().replace('"3"', '"4"'))
    called = started(package_dir)
    response = ask(called, "GET", "/readyz")
    assert (response.status_code, code(response)) == (503, "refused")
    assert "registration.json" in response.json()["error"]["message"]
    assert "gapgate_ready 0.0" in ask(called, "GET", "/metrics").text


def test_a_failure_inside_is_an_answer_that_tells_nothing_and_a_log_entry_that_tells_all(
    package_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    called = started(package_dir)
    (package_dir / "model.onnx").unlink()  # read again for the inner layers, at the first use
    response = ask(called, "POST", "/v1/similar", content=picture(16, 16), headers=PNG)
    assert (response.status_code, code(response)) == (500, "internal")
    assert "model.onnx" not in response.text
    assert "FileNotFoundError" in caplog.text
    assert response.headers["x-request-id"] in caplog.text


def test_a_body_that_does_not_arrive_ends_in_a_timeout(package_dir: Path) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"\x89PNG"
        await asyncio.sleep(30)

    response = ask(started(package_dir, timeout_s=0.05), "POST", "/v1/predict", content=stalled(), headers=PNG)
    assert (response.status_code, code(response)) == (408, "upload_timeout")


def test_half_received_bodies_beyond_the_limit_are_refused(package_dir: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield bytes(1000)

    response = ask(started(package_dir, max_buffered_bytes=2000), "POST", "/v1/predict", content=chunks(), headers=PNG)
    assert (response.status_code, code(response)) == (429, "overloaded")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "header",
    [
        {"authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY},
        {"authorization": f"bearer {KEY}"},
        {"authorization": "Bearer", "x-api-key": KEY},
        {"authorization": "Basic eDp5", "x-api-key": KEY},
    ],
)
def test_a_key_lets_anybody_in_and_other_keys_do_not(package_dir: Path, header: dict[str, str]) -> None:
    called = started(package_dir, api_keys=("0" * 64, HASH))
    assert ask(called, "GET", "/v1/model", client="203.0.113.7", headers=header).status_code == 200
    wrong = {name: value.replace(KEY, "wrong") for name, value in header.items()}
    for headers in ({}, wrong):
        response = ask(called, "GET", "/v1/model", headers=headers)
        assert (response.status_code, code(response)) == (401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"


def test_white_space_around_a_key_is_no_part_of_it(package_dir: Path) -> None:
    called = started(package_dir, api_keys=(HASH,))
    for value in (f"{KEY} ", f"{KEY}\t", f" {KEY}"):
        assert ask(called, "GET", "/v1/model", headers={"x-api-key": value}).status_code == 200


def test_below_a_path_everything_works_whether_the_proxy_takes_it_off_or_not(package_dir: Path) -> None:
    called = started(package_dir, root_path="/classifier", allow_anonymous=True)
    for path in ("/", "/docs", "/docs.json", "/static/page.js", "/v1/model"):
        assert ask(called, "GET", f"/classifier{path}").text == ask(called, "GET", path).text
    moved = ask(called, "GET", "/classifier")
    assert (moved.status_code, moved.headers["location"]) == (308, "/classifier/")
    assert ask(called, "GET", "/classifierx").status_code == 404
    for page in ("/classifier/", "/classifier/docs"):
        links = re.findall(r'(?:href|src)="([^"]*)"', ask(called, "GET", page).text)
        assert "static/page.css" in links
        assert not [link for link in links if link.startswith("/")]
    for given, scheme in ({"x-forwarded-proto": "https"}, "https"), ({"x-forwarded-proto": "<b>"}, "http"):
        (server,) = ask(called, "GET", "/docs.json", headers=given).json()["servers"]
        assert server["url"] == f"{scheme}://127.0.0.1/classifier"
    assert Options.from_environment({"GAPGATE_ROOT_PATH": "classifier/"}).root_path == "/classifier"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mlflow.example.org", "it is no address of a page"),
        ("javascript:alert(1)", "it is no address of a page"),
        ("https://me:secret@mlflow.example.org", "it holds a user or password"),
    ],
)
def test_an_address_of_mlflow_that_may_not_stand_on_a_page_is_refused(address, said):
    with pytest.raises(SettingsError, match=said) as refused:
        Options.from_environment({"GAPGATE_MLFLOW_URL": address})
    assert "secret" not in str(refused.value)


def test_a_variable_that_nothing_reads_is_named_with_the_one_that_is_meant() -> None:
    assert unknown({"GAPGATE_WORKER": "2", "GAPGATE_WORKERS": "2", "GAPGATE_HOME": "/x", "HOME": "/y"}) == [
        "GAPGATE_WORKER is no option of the server; did you mean GAPGATE_WORKERS?"
    ]


def test_every_variable_of_the_project_is_known() -> None:
    root = Path(__file__).parents[3]
    sources = [
        path
        for part in ("gapgate", "components", "pipelines", "cli", "serving")
        for path in (root / part).rglob("*.py")
    ]
    names = {name for path in sources for name in re.findall(r"GAPGATE_[A-Z_]*[A-Z]", path.read_text())}
    assert len(names) > 20
    assert unknown(dict.fromkeys(names, "1")) == []


@pytest.mark.parametrize("path", ["/", "/docs", "/docs.json", "/static/page.css", "/livez", "/readyz"])
def test_pages_and_probes_need_no_key(package_dir: Path, path: str) -> None:
    called = started(package_dir, api_keys=(HASH,))
    assert ask(called, "GET", path, client="203.0.113.7").status_code == 200


def test_without_keys_only_this_machine_is_answered(package_dir: Path) -> None:
    called = started(package_dir)
    assert ask(called, "GET", "/v1/model", client="127.0.0.9").status_code == 200
    for client in ("::ffff:127.0.0.1", "::1"):
        assert ask(called, "GET", "/v1/model", client=client).status_code == 200
    response = ask(called, "GET", "/v1/model", client="203.0.113.7")
    assert (response.status_code, code(response)) == (403, "loopback_only")
    everybody = started(package_dir, allow_anonymous=True)
    assert ask(everybody, "GET", "/v1/model", client="203.0.113.7").status_code == 200


def test_an_open_address_needs_a_key_or_a_word() -> None:
    check_address("127.0.0.1", Options())
    check_address("::1", Options())
    check_address("0.0.0.0", Options(api_keys=(HASH,)))
    check_address("0.0.0.0", Options(allow_anonymous=True))
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(ServeError, match="GAPGATE_API_KEYS"):
            check_address(host, Options())


def test_pages_of_named_origins_may_call_and_others_may_not(package_dir: Path) -> None:
    called = started(package_dir, cors_origins=("https://shop.example",))
    for origin, allowed in (("https://shop.example", "https://shop.example"), ("https://evil.example", None)):
        asked = {"origin": origin, "access-control-request-method": "POST"}
        assert (
            ask(called, "OPTIONS", "/v1/predict", headers=asked).headers.get("access-control-allow-origin") == allowed
        )
        answer = ask(called, "POST", "/v1/predict", content=picture(16, 16), headers={**PNG, "origin": origin})
        assert answer.status_code == 200
        assert answer.headers.get("access-control-allow-origin") == allowed


def test_options_come_from_the_environment() -> None:
    given = {"GAPGATE_MAX_BATCH": "7", "GAPGATE_API_KEYS": f"{HASH}, {'1' * 64}", "GAPGATE_ACCESS_LOG": "true"}
    options = Options.from_environment({**given, "GAPGATE_TIMEOUT_S": "", "OTHER": "1"})
    assert (options.max_batch, options.api_keys, options.access_log) == (7, (HASH, "1" * 64), True)
    assert options.timeout_s == Options().timeout_s


@pytest.mark.parametrize(
    ("name", "value"),
    [("GAPGATE_WORKERS", "0"), ("GAPGATE_LOG_FORMAT", "xml"), ("GAPGATE_API_KEYS", KEY), ("GAPGATE_TIMEOUT_S", "soon")],
)
def test_an_option_that_does_not_fit_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Options.from_environment({name: value})


def test_every_option_is_in_the_table_with_its_meaning() -> None:
    rows = {name: meaning for name, _, meaning in table()}
    assert {variable(name) for name in Options.model_fields} <= set(rows)
    assert all(meaning.endswith(".") for meaning in rows.values())
    assert not any("|" in meaning for meaning in rows.values())  # it would split the cell of a Markdown table


def test_the_description_of_a_server_with_keys_tells_of_the_model_only_with_one(package_dir: Path) -> None:
    called = started(package_dir, api_keys=(HASH,))
    model = ask(called, "GET", "/v1/model", headers={"x-api-key": KEY}).json()
    for path in ("/docs", "/docs.json"):
        assert model["receipt"] not in ask(called, "GET", path).text
        assert model["receipt"] in ask(called, "GET", path, headers={"x-api-key": KEY}).text


def test_a_compressed_body_is_refused(package_dir: Path) -> None:
    headers = {**PNG, "content-encoding": "gzip"}
    response = ask(started(package_dir), "POST", "/v1/predict", content=picture(16, 16), headers=headers)
    assert (response.status_code, code(response)) == (415, "unsupported_media_type")


def test_a_mistyped_parameter_is_refused_with_the_right_ones(package_dir: Path) -> None:
    response = ask(started(package_dir), "POST", "/v1/predict?topk=3", content=picture(16, 16), headers=PNG)
    assert (response.status_code, code(response)) == (422, "invalid_parameter")
    assert "top_k" in response.json()["error"]["message"]


def test_too_many_parameters_are_counted_in_the_answer(package_dir: Path) -> None:
    query = "&".join(f"a{number}=1" for number in range(100))
    response = ask(started(package_dir), "POST", f"/v1/predict?{query}", content=picture(16, 16), headers=PNG)
    assert (response.status_code, code(response)) == (422, "invalid_parameter")
    assert "at most 64 parameters" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("image/png", "image/png"),
        ("image/*", "image/png"),
        ("application/json, image/png;q=0.1", "application/json"),
        ("*/*", "application/json"),
        ("image/jpeg", "application/json"),
        ("image/png;q=x", "application/json"),
    ],
)
def test_an_explanation_comes_in_the_form_that_the_client_prefers(
    package_dir: Path, accept: str, content_type: str
) -> None:
    headers = {**PNG, "accept": accept}
    response = ask(started(package_dir), "POST", "/v1/explain", content=picture(16, 16), headers=headers)
    assert response.headers["content-type"] == content_type


def test_what_came_through_a_proxy_or_by_another_name_is_not_this_machine(package_dir: Path) -> None:
    called = started(package_dir)
    for name in (
        *(
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "forwarded",
            "x-real-ip",
            "via",
            "x-original-uri",
        ),
        *("cf-connecting-ip", "true-client-ip", "x-envoy-external-address", "X-Client-IP"),
    ):
        response = ask(called, "GET", "/v1/model", headers={name: "127.0.0.1"})
        assert (response.status_code, code(response)) == (403, "loopback_only"), name
    assert ask(called, "GET", "/v1/model", headers={"host": "evil.example:3000"}).status_code == 403
    for host in (
        "localhost:3000",
        "[::1]:3000",
        "127.0.0.1",
        "LOCALHOST",
        "localhost.:80",
        "ip6-localhost",
        "a.localhost",
    ):
        assert ask(called, "GET", "/v1/model", headers={"host": host}).status_code == 200, host
    for host in ("localhost.example", "127.0.0.1.example", "1", "::2", "[::2]:3000"):
        assert ask(called, "GET", "/v1/model", headers={"host": host}).status_code == 403, host


def test_keys_beside_a_word_that_nobody_needs_one_are_refused() -> None:
    with pytest.raises(SettingsError, match="unset one"):
        Options.from_environment({"GAPGATE_API_KEYS": HASH, "GAPGATE_ALLOW_ANONYMOUS": "true"})


def test_a_receipt_outlives_its_model_and_changed_files(package_dir: Path, tmp_path: Path) -> None:
    app, called = create_app(Options(), package_dir)
    app.start()
    digest = ask(called, "GET", "/v1/model").json()["receipt"]
    before = ask(called, "GET", f"/v1/receipts/{digest}").json()
    shutil.rmtree(package_dir)
    other = packaged.folder(tmp_path / "other", model=packaged.pooled_model())
    app.context.models.switch(Predictor.load(other))
    assert ask(called, "GET", "/v1/model").json()["receipt"] != digest
    assert ask(called, "GET", f"/v1/receipts/{digest}").json() == before


def test_a_file_that_has_not_changed_is_answered_without_content_and_without_a_length(client: httpx.Client) -> None:
    first = client.get("/static/example.png")
    again = client.get("/static/example.png", headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert "content-length" not in again.headers
    assert "transfer-encoding" not in again.headers
    assert client.get("/livez").status_code == 200


def test_bytes_without_a_type_that_begin_like_an_image_file_are_that_file(client: httpx.Client) -> None:
    size = 16 * 16
    stream = io.BytesIO()
    Image.effect_noise((40, 40), 50).save(stream, "PNG")
    whole = stream.getvalue()
    # A text makes the length that of whole tensors.
    text = b"Comment\0" + b"x" * (-(len(whole) + 12 + 8) % size)
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    data = whole[:-12] + chunk + whole[-12:]
    assert len(data) % size == 0
    octets = {"content-type": "application/octet-stream"}
    alone = client.post("/v1/predict", content=data, headers=octets)
    assert (
        alone.json()["probabilities"] == client.post("/v1/predict", content=data, headers=PNG).json()["probabilities"]
    )
    (only,) = client.post("/v1/predict/batch", content=data, headers=octets).json()["results"]
    assert only["probabilities"] == alone.json()["probabilities"]
    cut = client.post("/v1/predict", content=data[:size], headers=octets)
    assert (cut.status_code, code(cut)) == (400, "invalid_image")
    for tensor in (b"BM", b"P5", b"\xff\xd8\xff\xff"):
        assert client.post("/v1/predict", content=tensor.ljust(size), headers=octets).status_code == 200


@pytest.mark.parametrize("form", ["TIFF", "AVIF"])
def test_a_format_is_served_where_the_option_adds_it(package_dir: Path, form: str) -> None:
    data, name = picture(16, 16, form), f"image/{form.lower()}"
    refused = ask(started(package_dir), "POST", "/v1/predict", content=data, headers={"content-type": name})
    assert (refused.status_code, code(refused)) == (400, "invalid_image")
    assert f"GAPGATE_FORMATS=+{form.lower()}" in refused.json()["error"]["message"]
    called = started(package_dir, formats=(f"+{form.lower()}",))
    assert ask(called, "POST", "/v1/predict", content=data, headers={"content-type": name}).status_code == 200
    assert name in ask(called, "GET", "/v1/model").json()["input"]["content_types"]
    assert ask(called, "POST", "/v1/predict", content=picture(16, 16), headers=PNG).status_code == 200


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "png jpeg webp bmp gif ppm"),
        ("+tiff, +avif", "png jpeg webp bmp gif ppm tiff avif"),
        ("png jpeg", "png jpeg"),
        ("png +tiff", "png tiff"),
    ],
)
def test_formats_are_added_with_a_plus_and_replaced_without(text: str, names: str) -> None:
    served = Options.from_environment({"GAPGATE_FORMATS": text}).served
    assert " ".join(form.option for form in served) == names


def test_an_unknown_format_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="GAPGATE_FORMATS names jpg; it takes png, jpeg, webp"):
        Options.from_environment({"GAPGATE_FORMATS": "jpg"})
