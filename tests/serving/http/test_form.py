"""Forms as clients write them, the usual and the odd ones, and files in JSON."""

from __future__ import annotations

import base64
import tracemalloc

import httpx
import pytest
import requests
import urllib3

from serving.http.form import FormError, TooManyFilesError, parse_files, parse_json, parse_json_files
from serving.run import Server
from tests.serving.packaged import picture

TYPE = "multipart/form-data; boundary=b"
PNG = picture(20, 30)


def form(*parts: str, end: str = "--b--\r\n") -> bytes:
    return ("".join(f"--b\r\n{part}\r\n" for part in parts) + end).encode()


def part(disposition: str, *headers: str, data: str = "x") -> str:
    return "\r\n".join([f"Content-Disposition: form-data; {disposition}", *headers, "", data])


@pytest.mark.parametrize(
    ("given", "field", "filename"),
    [
        (part('name="image"; filename="a.png"', "Content-Type: image/png"), "image", "a.png"),
        (part('name="f"; filename="a.png"'), "f", "a.png"),
        (part('name="f"', "Content-Type: image/png"), "f", ""),
        (part('name="image"'), "image", ""),
        (part('name="images"', "Content-Type: text/plain; charset=utf-8"), "images", ""),
        (part("name=\"f\"; filename*=UTF-8''na%C3%AFve%20a.png"), "f", "naïve a.png"),
        (part("name=\"f\"; filename*=unknown-8''a.png"), "f", "a.png"),
        (part('name="f"; filename="a\\"b.png"'), "f", 'a"b.png'),
        (part('name="f"; filename="a%22b.png"'), "f", 'a"b.png'),
        (part("name=f; filename=a.png"), "f", "a.png"),
        (part('filename="a.png"'), "", "a.png"),
    ],
)
def test_a_part_is_a_file_by_its_name_its_type_or_its_field(given: str, field: str, filename: str) -> None:
    (found,) = parse_files(TYPE, form(part('name="other"'), given), 1)
    assert (found.field, found.filename, found.data) == (field, filename, b"x")


def test_a_preamble_and_an_epilogue_are_passed_over() -> None:
    body = b"This is a form.\r\n" + form(part('name="image"')) + b"the end"
    assert [found.data for found in parse_files(TYPE, body, 1)] == [b"x"]


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("multipart/form-data", form(part('name="image"')), "no boundary; let your HTTP library set"),
        ("multipart/form-data; boundary=c", form(part('name="image"')), "begins with --c, its boundary; .* '--b'"),
        (TYPE, form(part('name="image"')).replace(b"\r\n", b"\n"), "CR LF, not with LF"),
        (TYPE, form(part('name="image"'), end=""), "before its last boundary"),
        (TYPE, form("no header\r\n\r\nx"), "malformed"),
        (TYPE, form("A: b\r\n\r\nx"), "Missing Content-Disposition"),
        (TYPE, form(*[part('name="text"')] * 65), "more than 64 fields"),
        (TYPE, form(part('name="image"', "A: " + "b" * 5000)), "header length"),
        (TYPE, b"", "no part that begins with --b"),
    ],
)
def test_a_form_that_cannot_be_read_gets_the_cause(content_type: str, body: bytes, words: str) -> None:
    with pytest.raises(FormError, match=words):
        parse_files(content_type, body, 8)


def test_the_files_are_counted_before_they_are_read() -> None:
    with pytest.raises(TooManyFilesError, match="more than 2 images"):
        parse_files(TYPE, form(*[part('name="image"')] * 3, end="no end"), 2)


def test_files_in_json() -> None:
    text = base64.b64encode(b"\0\xffbytes").decode()
    (one,) = parse_json_files(f'{{"image": "{text}", "more": [1, 2]}}'.encode(), 8)
    assert (one.field, one.filename, one.data) == ("image", None, b"\0\xffbytes")
    two = parse_json_files(f'{{"images": ["{text}", "data:image/png;base64,{text}"]}}'.encode(), 2)
    assert [found.data for found in two] == [one.data] * 2
    with pytest.raises(TooManyFilesError):
        parse_json_files(b'{"images": ["", "", ""]}', 2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b"[]", "neither"),
        (b"{}", "neither"),
        (b'{"image": "", "images": []}', "neither"),
        (b'{"image": 1}', "image is no text"),
        (b'{"image": null}', "image is no text"),
        (b'{"image": "no base64"}', "not base64"),
        (b'{"image": "YQ"}', "not base64"),
        ('{"image": "ÿ"}'.encode(), "not base64"),
        (b"\xff", "no JSON"),
        (b"[" * 100, "no JSON|too many"),
    ],
)
def test_json_that_holds_no_files_gets_the_cause(body: bytes, words: str) -> None:
    with pytest.raises(FormError, match=words):
        parse_json_files(body, 8)


@pytest.mark.parametrize("body", [b"[" + b"{}," * 10**6 + b"{}]", b"[" * 10**6, b"[" + b"0," * 10**6 + b"0]"])
def test_a_body_of_json_never_becomes_many_times_its_size(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormError, match="more than"):
            parse_json(body, max_values=10_000)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_clients_that_name_no_file_are_understood(server: Server) -> None:
    url = f"{server.url}/v1/predict"
    expected = httpx.post(url, files={"image": ("a.png", PNG, "image/png")}).json()["probabilities"]
    by_requests = requests.post(url, files={"image": (None, PNG)}, timeout=60).json()
    by_urllib3 = urllib3.PoolManager().request("POST", url, fields={"image": PNG}).json()
    in_json = httpx.post(url, json={"image": base64.b64encode(PNG).decode()}).json()
    for answer in (by_requests, by_urllib3, in_json):
        assert answer["probabilities"] == expected


def test_json_has_the_limits_of_a_form(server: Server) -> None:
    url = f"{server.url}/v1/predict/batch"
    image = base64.b64encode(PNG).decode()
    for given, code, words in (
        ([image] * 129, "too_many_images", "more than 128 images came"),
        ([], "missing_image", "no image"),
    ):
        error = httpx.post(url, json={"images": given}).json()["error"]
        assert error["code"] == code
        assert error["message"].startswith(words)
    assert httpx.post(url, json={"images": ["A" * 2**20] * 11}).json()["error"]["code"] == "body_too_large"
    mixed = httpx.post(url, json={"images": [image, image[:40], image]}).json()["results"]
    assert ["error" in found for found in mixed] == [False, True, False]
    assert all("filename" not in found for found in mixed)
