"""The OpenAPI description against the server: requests made up from `/docs.json`, valid ones and invalid ones, and
every answer held to what it promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from serving.http.request import IMAGE_TYPES
from serving.run import Server
from tests.serving.packaged import SIZE_PX, picture

# "Any bytes" is all that OpenAPI can say of an image; these are images.
for media_type in IMAGE_TYPES:
    name = media_type.removeprefix("image/")
    written = picture(20, 30, "PPM" if name.startswith("x-portable") else name.upper())
    schemathesis.openapi.media_type(media_type, st.just(written))
schemathesis.openapi.media_type("application/octet-stream", st.just(bytes(SIZE_PX * SIZE_PX)))

# Schemathesis does not expect 413, the answer to more images or bytes than a request may hold.
REFUSALS = {"expected-statuses": ["400", "401", "404", "413", "415", "422", "429"]}
CONFIG = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": REFUSALS}})


def operations(server: Server) -> Iterator[APIOperation]:
    for result in schemathesis.openapi.from_url(f"{server.url}/docs.json", config=CONFIG).get_all_operations():
        yield result.ok()


def examine(operation: APIOperation, mode: GenerationMode, check: Callable[[Case], None]) -> bool:
    """Whether there was anything of this mode to examine."""
    asked = given(case=operation.as_strategy(generation_mode=mode))(check)
    limits = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    try:
        limits(asked)()
    except Unsatisfiable:
        return False
    return True


def test_what_the_description_allows_is_answered_as_it_says(server: Server) -> None:
    def answers(case: Case) -> None:
        # The files of a form and of JSON are arbitrary bytes here too; that they are no images is for the server to
        # say.
        holds_files = case.media_type in ("multipart/form-data", "application/json")
        case.call_and_validate(excluded_checks=[positive_data_acceptance] if holds_files else [])

    examined = {found.label for found in operations(server) if examine(found, GenerationMode.POSITIVE, answers)}
    assert examined > {"POST /v1/predict", "POST /v1/predict/batch", "POST /v1/explain", "POST /v1/similar"}
    assert examined > {"POST /v2/models/{name}/infer", "GET /v2/models/{name}/ready", "GET /v2/health/live"}
    assert examined > {"GET /v1/model", "GET /v1/receipts/{digest}", "GET /livez", "GET /readyz", "GET /metrics"}


def test_what_the_description_forbids_is_refused_as_it_says(server: Server) -> None:
    def refuses(case: Case) -> None:
        # Whatever stands in the field `images` of a form is a file, and a bad file fails alone.
        is_batch = case.media_type == "multipart/form-data" and case.path == "/v1/predict/batch"
        case.call_and_validate(excluded_checks=[negative_data_rejection] if is_batch else [])

    examined = {found.label for found in operations(server) if examine(found, GenerationMode.NEGATIVE, refuses)}
    assert examined >= {"POST /v1/predict", "POST /v1/predict/batch", "POST /v1/explain", "POST /v1/similar"}
