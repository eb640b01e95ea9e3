"""The description of the service, held against a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from openapi_spec_validator import validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

from serving import options
from serving.description import docs, openapi
from serving.description.openapi_examples import without_secrets
from serving.description.schema import ModelCard
from serving.http.responses import ERRORS
from serving.http.routes import ROUTES
from serving.run import Server
from tests.serving.packaged import picture

PNG = {"content-type": "image/png"}
TENSOR = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def spec(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/docs.json").json()
    return found


@pytest.fixture(scope="module")
def card(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/v1/model").json()
    return found


def assert_described(spec: dict[str, Any], response: httpx.Response, path: str) -> None:
    """The status, the headers, the content type and the content are among those of the operation."""
    operation = spec["paths"][path][response.request.method.lower()]
    described = operation["responses"][str(response.status_code)]
    assert set(described["headers"]) <= {re.sub(r"\bId\b", "ID", name.title()) for name in response.headers} | {
        "WWW-Authenticate"
    }
    content_type = response.headers["content-type"].partition(";")[0]
    schema = described["content"][content_type]["schema"]
    if content_type == "application/json":
        jsonschema_rs.validate({**schema, "components": spec["components"]}, response.json())
    if response.status_code >= 400:
        assert f"`{response.json()['error']['code']}`" in described["description"]


def test_these_routes_are_described_and_the_open_ones_need_no_key(spec: dict[str, Any]) -> None:
    posts = ["/v1/predict", "/v1/predict/batch", "/v1/explain", "/v1/similar", "/v2/models/{name}/infer"]
    public = {"/", "/docs", "/docs.json", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
    gets = {"/v1/model", "/v1/receipts/{digest}", "/metrics", "/v2", "/v2/models/{name}", "/v2/models/{name}/ready"}
    gets |= public
    described = {path: set(operations) for path, operations in spec["paths"].items()}
    assert described == {path: {"post"} for path in posts} | {path: {"get"} for path in gets}
    keyed = openapi.spec(ROUTES, ModelCard.model_validate(example_card(spec)), keys_required=True)
    for path, item in keyed["paths"].items():
        for operation in item.values():
            assert (operation.get("security") == []) == (path in public)


def example_card(spec: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = spec["paths"]["/v1/model"]["get"]["responses"]["200"]["content"]
    return dict(content["application/json"]["example"])


@pytest.mark.parametrize("path", ["/v1/model", "/livez", "/readyz", "/metrics", "/", "/docs", "/docs.json"])
def test_what_a_get_answers_is_as_described(client: httpx.Client, spec: dict[str, Any], path: str) -> None:
    assert_described(spec, client.get(path), path)


def test_what_the_model_answers_is_as_described(client: httpx.Client, spec: dict[str, Any]) -> None:
    data = picture(40, 30)
    for path in ("/v1/predict", "/v1/explain?feature_maps=true", "/v1/similar?k=3"):
        response = client.post(path, content=data, headers=PNG)
        assert response.status_code == 200
        assert_described(spec, response, path.partition("?")[0])
    heat = client.post("/v1/explain", content=data, headers={**PNG, "accept": "image/png"})
    assert_described(spec, heat, "/v1/explain")
    files = [("images", ("a.png", data, "image/png")), ("images", ("b.png", b"no image", "image/png"))]
    batch = client.post("/v1/predict/batch", files=files)
    assert [sorted(result)[-1] for result in batch.json()["results"]] == ["probabilities", "index"]
    assert_described(spec, batch, "/v1/predict/batch")


def test_a_receipt_and_an_unknown_one_are_as_described(client: httpx.Client, spec: dict[str, Any], card: Any) -> None:
    for digest, status in ((card["receipt"], 200), ("sha256:" + "0" * 64, 404)):
        response = client.get(f"/v1/receipts/{digest}")
        assert response.status_code == status
        assert_described(spec, response, "/v1/receipts/{digest}")


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict/batch", "/v1/explain", "/v1/similar"])
def test_every_refusal_is_as_described(client: httpx.Client, spec: dict[str, Any], card: Any, path: str) -> None:
    limit = card["input"]["max_body_bytes"]
    many = [("image", (f"{index}.png", b"x")) for index in range(card["input"]["max_batch"] + 1)]
    refusals = [
        (400, "wrong_shape", client.post(path, content=b"x", headers=TENSOR)),
        (400, "missing_image", client.post(path, files={"text": (None, b"a field")})),
        (400, "bad_request", client.post(path, json={"image": "no base64"})),
        (400, "bad_request", client.post(path, content=b"x", headers={"content-type": "multipart/form-data"})),
        (413, "body_too_large", client.post(path, content=bytes(limit + 1), headers=TENSOR)),
        (413, "too_many_images", client.post(path, files=many)),
        (415, "unsupported_media_type", client.post(path, content=b"{}", headers={"content-type": "text/plain"})),
    ]
    if path != "/v1/predict/batch":
        refusals.append((400, "invalid_image", client.post(path, content=b"no image", headers=PNG)))
    for status, code, response in refusals:
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert_described(spec, response, path)


def test_the_limits_of_each_parameter_are_those_of_the_server(client: httpx.Client, spec: dict[str, Any]) -> None:
    num_bytes = spec["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/octet-stream"]["schema"]
    data = bytes(num_bytes["minLength"])
    seen = 0
    for path, item in spec["paths"].items():
        queries = [found for found in item.get("post", {}).get("parameters", []) if found["in"] == "query"]
        for parameter in queries:
            schema = parameter["schema"]
            good, bad = {
                "integer": lambda s: ([s["minimum"], s["maximum"]], [s["minimum"] - 1, s["maximum"] + 1, "1.5", ""]),
                "boolean": lambda s: (["true", "false"], ["1", "yes", ""]),
                "string": lambda s: (s["enum"], ["no such class", ""]),
            }[schema["type"]](schema)
            for value, status in [*((value, 200) for value in good), *((value, 422) for value in bad)]:
                response = client.post(path, params={parameter["name"]: value}, content=data, headers=TENSOR)
                assert (parameter["name"], value, response.status_code) == (parameter["name"], value, status)
                assert_described(spec, response, path)
                seen += 1
    assert seen > 20


def test_every_schema_is_valid_and_every_example_fits_its_schema(spec: dict[str, Any]) -> None:
    for schema in spec["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    seen = 0
    for item in spec["paths"].values():
        for operation in item.values():
            for content in operation["responses"]["200"]["content"].values():
                if "example" in content:
                    jsonschema_rs.validate({**content["schema"], "components": spec["components"]}, content["example"])
                    seen += 1
    assert seen == 14


def test_an_open_description_of_a_server_with_keys_tells_nothing_of_its_model(spec: dict[str, Any]) -> None:
    card = ModelCard.model_validate({**example_card(spec), "name": "secret-name", "classes": ["secret-class"]})
    keyed = openapi.spec(ROUTES, without_secrets(card), keys_required=True)
    page = docs.render(keyed, options.table())
    for secret in ("secret-", card.receipt, card.package, card.training_data):
        assert secret not in str(keyed)
        assert secret not in page
    assert "X-API-Key: $GAPGATE_API_KEY" in page.replace("&quot;", '"')


def test_the_commands_of_the_documentation_work_as_pasted(server: Server, spec: dict[str, Any]) -> None:
    ran = 0
    for item in spec["paths"].values():
        for operation in item.values():
            for sample in operation["x-codeSamples"]:
                if "@photo.jpg" in sample["source"] or "@a.png" in sample["source"] or "-o " in sample["source"]:
                    continue  # they need a file, or write one
                command = _command(sample)
                if command is None:
                    continue
                environment = {**os.environ, "NO_PROXY": "*"}
                done = subprocess.run(command, capture_output=True, timeout=60, env=environment)
                assert (sample["source"], done.returncode) == (sample["source"], 0), done.stderr
                assert done.stdout
                assert b"'error'" not in done.stdout
                ran += 1
    assert ran == 20 + (6 if shutil.which("node") else 3)


def _command(sample: dict[str, str]) -> list[str] | None:
    """What runs a sample; None for JavaScript on a machine without Node.js."""
    source = sample["source"]
    if sample["lang"] == "Python":
        return [sys.executable, "-c", source]
    if sample["lang"] == "JavaScript":
        node = shutil.which("node")
        return node and [node, "--input-type=module", "--eval", source]  # type: ignore[return-value]
    return ["sh", "-c", source.replace("curl -sS", "curl -sS --fail-with-body --noproxy '*'")]


def test_the_page_has_every_route_parameter_error_and_option(client: httpx.Client, spec: dict[str, Any]) -> None:
    page = client.get("/docs").text
    for path, item in spec["paths"].items():
        assert f"<code>{path}</code>" in page
        for operation in item.values():
            for parameter in operation["parameters"]:
                assert f"<code>{parameter['name']}</code>" in page
    for word in (*ERRORS, *(name for name, _, _ in options.table())):
        assert f"<code>{word}</code>" in page
    assert re.findall("<script[^>]*>", page) == ['<script type="module" src="static/docs.js">']
    assert 'style="' not in page


def test_names_from_data_are_text_on_the_page(spec: dict[str, Any]) -> None:
    card = ModelCard.model_validate({**example_card(spec), "name": "<b>", "classes": ["<script>alert(1)</script>"]})
    page = docs.render(openapi.spec(ROUTES, card, url="http://localhost"), [("A", "<i>", "`<u>`")])
    for tag in ("<b>,", "<script>", "<i>", "<u>"):
        assert tag not in page


def test_the_document_is_valid_to_its_own_validator() -> None:
    document = json.loads((Path(__file__).parents[2] / "snapshots" / "openapi.json").read_text())
    validate(document)
    del document["info"]["title"]
    with pytest.raises(OpenAPIValidationError):
        validate(document)
