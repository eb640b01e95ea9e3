"""The page in a real Chromium, against a real server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest

from gapgate.artifacts import Artifact
from serving.run import Server, serve
from tests.serving import packaged
from tests.serving.browsing import CHROMIUM, FAINT_TEXT, playwright, predicted, tab_to, wait_for_answers
from tests.serving.packaged import picture

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the page is not tested: no chromium on the PATH")

KEY = "a key of the tests"
POLICY = "default-src 'self'; img-src 'self' data: blob:"


# Of this module and not of the session: while Playwright runs, `asyncio.run` is refused in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(60_000)
    opened = context.new_page()
    opened.goto(server.url)
    opened.wait_for_selector("#model dl")
    yield opened
    context.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(picture(40, 30, seed=3))
    return path


def test_a_chosen_file_gets_the_answer_of_the_api(page: Any, server: Server, image: Path) -> None:
    page.set_input_files("#file", image)
    wait_for_answers(page)
    expected = predicted(server, image.read_bytes())
    assert page.inner_text("#class") == expected["class"]
    assert page.locator(".bars .name").all_inner_texts() == list(expected["probabilities"])
    assert expected["class"] in page.inner_text("#status")
    assert page.inner_text("#file-note") == "picture.png · 40 × 30 px"


def test_what_only_the_browser_reads_is_sent_as_png(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "phone.avif"
    path.write_bytes(picture(60, 40, "AVIF"))
    page.set_input_files("#file", path)
    wait_for_answers(page)
    assert page.locator("#answer .problem").count() == 0
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x20ftypheic" + bytes(100))
    page.set_input_files("#file", tmp_path / "phone.heic")
    playwright.expect(page.locator("#answer .problem")).to_contain_text("a HEIC file, which this server does not take")


def test_the_heat_map_is_that_of_the_class_that_is_picked(page: Any, image: Path) -> None:
    page.set_input_files("#file", image)
    wait_for_answers(page)
    other = page.locator(".bars .name").nth(1).inner_text()
    page.select_option("#heat-class", other)
    heat = page.locator(f".heat img[alt='Heat map for {other}']")
    heat.wait_for()
    assert heat.evaluate("(img) => img.decode().then(() => img.naturalWidth)") >= 224


def test_the_receipt_and_the_similar_images_are_those_of_the_api(page: Any, server: Server, image: Path) -> None:
    page.set_input_files("#file", image)
    wait_for_answers(page)
    digest = predicted(server, image.read_bytes())["receipt"]
    answer = httpx.get(f"{server.url}/v1/receipts/{digest}").json()
    assert digest in page.inner_text("#receipt")
    assert answer["receipt"]["code_revision"] in page.inner_text("#receipt")
    shown = dict(line.split("\n") for line in page.locator(".chain li").all_inner_texts())
    assert shown == {kind: manifest["digest"] for kind, manifest in answer["lineage"].items()}
    num_indexed = httpx.get(f"{server.url}/v1/model").json()["similar"]
    assert page.locator(".neighbours li").count() == min(10, num_indexed)


def test_the_receipt_leads_to_the_run_and_a_picture_unlike_all_others_gets_a_hint(
    browser: Any, bento: Artifact, tmp_path: Path
) -> None:
    image = PIL.Image.new("L", (16, 16))
    image.putpixel((0, 0), 255)
    image.save(tmp_path / "far.png")
    environment = {"GAPGATE_MLFLOW_URL": "https://mlflow.example.org/ml/"}
    page = browser.new_page()
    with serve(bento.path / "model.bento", work_dir=tmp_path / "served", environment=environment) as server:
        server.wait_ready()
        page.goto(server.url)
        page.wait_for_selector("#model dl")
        page.set_input_files("#file", tmp_path / "far.png")
        wait_for_answers(page)
        digest = predicted(server, (tmp_path / "far.png").read_bytes())["receipt"]
        run = httpx.get(f"{server.url}/v1/receipts/{digest}").json()["receipt"]["tracking_run"]
        links = page.locator("#receipt a").evaluate_all("(all) => all.map((each) => [each.innerText, each.href])")
        assert links == [
            ["run in MLflow", f"https://mlflow.example.org/ml/#/runs/{run}"],
            ["report", f"https://mlflow.example.org/ml/get-artifact?run_uuid={run}&path=report/report.html"],
        ]
        assert page.inner_text("#similar .hint").startswith("Unlike all training images: the nearest is ")
        assert page.evaluate(FAINT_TEXT) == []
        page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.close()


def test_without_an_address_of_mlflow_there_is_no_link_and_for_a_usual_picture_no_hint(
    page: Any, bento: Artifact, tmp_path: Path
) -> None:
    splits = bento.path.parent / "splits"
    pixels = np.load(splits / "images.npy")[np.load(splits / "train.npy")[0]]
    PIL.Image.fromarray(pixels.squeeze()).save(tmp_path / "usual.png")
    page.set_input_files("#file", tmp_path / "usual.png")
    wait_for_answers(page)
    assert page.locator("#receipt a").count() == 0
    assert page.locator("#similar .hint").count() == 0


def test_feature_maps_are_shown_where_a_model_has_them_and_similar_images_only_where_it_has_an_index(
    browser: Any, image: Path, tmp_path: Path
) -> None:
    bento = packaged.bento(packaged.inputs(tmp_path / "inputs", model=packaged.pooled_model()), tmp_path / "bento")
    page = browser.new_page()
    with serve(bento.path / "model.bento", work_dir=tmp_path / "served") as server:
        server.wait_ready()
        page.goto(server.url)
        page.wait_for_selector("#model dl")
        page.set_input_files("#file", image)
        wait_for_answers(page)
        assert page.is_hidden("#similar")
        page.click("#show-maps")
        sheet = page.locator(".sheets img")
        playwright.expect(sheet).to_have_count(1)
        assert sheet.evaluate("(img) => img.decode().then(() => img.naturalWidth)") == 3 * 14
        assert page.inner_text(".sheets figcaption") == "1 convolution: 7 maps of 14 × 14 px"
        page.click("text=Hide feature maps")
        playwright.expect(sheet).to_have_count(0)
        assert page.inner_text("#show-maps") == "Show feature maps"
    page.close()


def test_a_sample_of_the_documentation_is_copied_by_a_button(browser: Any, server: Server) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{server.url}/docs")
    figure = page.locator("#predict figure, section figure").first
    figure.get_by_role("button", name="Copy").click()
    playwright.expect(figure.get_by_role("button")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == figure.locator("code").inner_text()
    context.close()


def send(page: Any, operation: str) -> Any:
    """Send the form of an operation on `/docs`; returns the response."""
    form = page.locator(f"#{operation} .try")
    if form.get_attribute("open") is None:
        form.locator("summary").click()
    with page.expect_response(lambda response: "/static/" not in response.url) as response:
        form.get_by_role("button", name="Send").click()
    playwright.expect(form.get_by_role("status")).to_contain_text(f"{response.value.status} ")
    form.locator(".answer > *").wait_for()
    return response.value


def test_a_form_of_the_documentation_sends_what_its_route_takes(
    browser: Any, server: Server, image: Path, tmp_path: Path
) -> None:
    page = browser.new_page()
    page.goto(f"{server.url}/docs")
    example = httpx.get(f"{server.url}/static/example.png").content
    page.get_by_label("top_k").first.wait_for(state="attached")
    for operation, data in (("predict", example), ("predict", image.read_bytes())):
        answer = send(page, operation).json()
        assert answer["probabilities"] == pytest.approx(predicted(server, data)["probabilities"])
        assert json.loads(page.inner_text("#predict .answer pre")) == answer
        page.set_input_files("#predict input[type=file]", image)
    page.fill("#predict [name=top_k]", "1")
    assert len(send(page, "predict").json()["probabilities"]) == 1

    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:-60])
    for operation in ("predictBatch", "inferenceInfer"):
        page.set_input_files(f"#{operation} input[type=file]", [image, image])
        answer = send(page, operation).json()
        assert (len(answer["results"]) if "results" in answer else answer["outputs"][0]["shape"][0]) == 2
    page.set_input_files("#predict input[type=file]", tmp_path / "broken.png")
    assert send(page, "predict").status == 400
    assert "invalid_image" in page.inner_text("#predict .answer")

    page.click("#explain .try summary")
    page.select_option("#explain [name=Accept]", "image/png")
    assert send(page, "explain").headers["content-type"] == "image/png"
    assert page.locator("#explain .answer img").evaluate("(img) => img.decode().then(() => img.naturalWidth)") > 0
    page.select_option("#explain [name=Accept]", "application/json")
    page.select_option("#explain [name=feature_maps]", "true")
    assert len(page.inner_text("#explain .answer")) < len(send(page, "explain").text())
    assert send(page, "receipt").json()["receipt"]
    assert "# HELP" in send(page, "metrics").text()
    assert page.locator("#docs .try").count() == 0
    page.close()


def test_every_route_that_answers_no_page_has_a_form_whose_fields_have_labels(browser: Any, server: Server) -> None:
    page = browser.new_page()
    page.goto(f"{server.url}/docs")
    routes = {
        operation["operationId"]
        for path in httpx.get(f"{server.url}/docs.json").json()["paths"].values()
        for operation in path.values()
    }
    assert set(page.locator("section:has(.try)").evaluate_all("(all) => all.map((each) => each.id)")) == routes - {
        "page",
        "docs",
    }
    unnamed = "(all) => all.filter((each) => !each.labels.length || !each.labels[0].innerText).length"
    fields = page.locator(".try :is(input, select)")
    page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
    assert fields.count() > 10
    assert fields.evaluate_all(unnamed) == 0
    page.close()


def test_the_empty_page_has_an_example_to_try(page: Any, server: Server) -> None:
    expected = predicted(server, httpx.get(f"{server.url}/static/example.png").content)
    page.click("text=Try an example")
    wait_for_answers(page)
    assert page.inner_text("#class") == expected["class"]


def test_a_picture_that_is_pasted_or_dropped_is_taken(page: Any, server: Server, image: Path) -> None:
    send = """([type, name, bytes]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], "picture.png", { type: "image/png" }));
      const [Event, key] = { paste: [ClipboardEvent, "clipboardData"], drop: [DragEvent, "dataTransfer"] }[type];
      document.body.dispatchEvent(new Event(type, { [key]: transfer, bubbles: true, cancelable: true }));
    }"""
    for event, seed in (("paste", 4), ("drop", 5)):
        data = picture(40, 30, seed=seed)
        with page.expect_response("**/v1/predict?*") as response:
            page.evaluate(send, [event, "picture.png", list(data)])
        assert response.value.json()["probabilities"] == pytest.approx(predicted(server, data)["probabilities"])


def test_a_drawing_by_mouse_is_answered_and_can_be_inverted_undone_and_cleared(page: Any) -> None:
    page.check("#source-draw", force=True)
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 220, steps=5)
    with page.expect_response("**/v1/predict?*") as response:
        page.mouse.up()
    page.wait_for_selector("#class")
    assert page.inner_text("#class") == response.value.json()["class"]

    mean = "document.querySelector('canvas').getContext('2d').getImageData(0, 0, 280, 280).data"
    mean = f"{mean}.filter((_, index) => index % 4 === 0).reduce((sum, value) => sum + value, 0) / 280 ** 2"
    drawn = page.evaluate(mean)
    assert 5 < drawn < 100
    page.check("#invert")
    assert page.evaluate(mean) == pytest.approx(255 - drawn, abs=1)
    page.click("#undo")
    assert page.evaluate(mean) == 255
    page.uncheck("#invert")
    page.click("#clear")
    assert page.evaluate(mean) == 0


def test_the_keyboard_alone_chooses_a_file_and_asks_for_feature_maps(page: Any, image: Path) -> None:
    # The first listener makes Chromium hand over its dialogues, and not at once: without it, 4 of 12 presses got none.
    page.on("filechooser", lambda chooser: None)
    tab_to(page, "#file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(image)
    wait_for_answers(page)
    tab_to(page, "#heat-class")
    tab_to(page, "#show-maps")
    page.keyboard.press("Enter")
    page.wait_for_selector("#maps .note")


def test_the_keyboard_alone_draws(page: Any) -> None:
    tab_to(page, "#source-file")
    page.keyboard.press("ArrowRight")
    tab_to(page, "#canvas")
    page.keyboard.press("Space")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    with page.expect_response("**/v1/predict?*") as response:
        page.keyboard.press("Space")
    page.wait_for_selector("#class")
    assert response.value.status == 200


def test_nothing_is_asked_of_another_server_and_nothing_offends_the_content_policy(
    browser: Any, server: Server, image: Path
) -> None:
    context = browser.new_context()
    page = context.new_page()
    addresses, complaints = [], []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    response = page.goto(server.url)
    assert POLICY in response.headers["content-security-policy"]
    page.set_input_files("#file", image)
    wait_for_answers(page)
    page.click("#show-maps")
    page.wait_for_selector("#maps .note")
    page.goto(f"{server.url}/docs")
    assert len(addresses) > 8
    assert [url for url in addresses if not url.startswith((f"{server.url}/", "data:", "blob:"))] == []
    assert complaints == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_no_text_is_faint_and_a_phone_needs_no_scrolling_sideways(
    browser: Any, server: Server, tmp_path: Path, image: Path, scheme: str, path: str
) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(server.url + path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:-60])
    if path == "/":
        page.wait_for_selector("#model dl")
        page.set_input_files("#file", broken)
        page.wait_for_selector(".problem")
        assert page.evaluate(FAINT_TEXT) == []
        page.set_input_files("#file", image)
        wait_for_answers(page)
        page.click("#show-maps")
        page.wait_for_selector("#maps .note")
    page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
    assert page.evaluate(FAINT_TEXT) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 15, 18)"
    assert is_dark == (scheme == "dark")
    context.close()


def test_an_error_is_in_the_words_of_the_server_and_can_be_tried_again(
    page: Any, server: Server, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture(64, 64)[:-60])
    page.set_input_files("#file", broken)
    page.wait_for_selector("#answer .problem")
    assert page.inner_text("#answer .problem b").lower() == predicted(server, broken.read_bytes())["error"]["message"]
    assert "invalid_image" in page.inner_text("#answer .problem")
    with page.expect_response("**/v1/predict?*") as response:
        page.get_by_role("button", name="Try again").click()
    assert response.value.status == 400


def test_a_server_that_is_away_is_said_and_asked_again(page: Any, image: Path) -> None:
    page.context.set_offline(True)
    page.set_input_files("#file", image)
    page.wait_for_selector("#answer .problem")
    assert page.inner_text("#answer .problem b") == "The server does not answer."
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    wait_for_answers(page)


def test_a_file_over_the_limit_is_refused_before_it_is_sent(page: Any, server: Server, tmp_path: Path) -> None:
    limit = httpx.get(f"{server.url}/v1/model").json()["input"]["max_body_bytes"]
    large = tmp_path / "large.png"
    large.write_bytes(bytes(limit + 1))
    page.set_input_files("#file", large)
    page.wait_for_selector("#answer .problem")
    said = f"{limit // 2**20} MiB"
    assert page.inner_text("#answer .problem b") == f"The file is larger than the {said} that the server takes."
    refused = httpx.post(f"{server.url}/v1/predict", content=bytes(limit + 1), headers={"content-type": "image/png"})
    assert refused.json()["error"]["message"] == f"the body exceeds {said}; send a smaller image"


def test_a_server_with_keys_gets_one_from_the_field_that_appears(
    browser: Any, bento: Artifact, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAPGATE_API_KEYS", hashlib.sha256(KEY.encode()).hexdigest())
    context = browser.new_context()
    page = context.new_page()
    with serve(bento.path / "model.bento", work_dir=tmp_path / "keyed") as server:
        server.wait_ready()
        page.goto(server.url)
        page.wait_for_selector("#key-value", state="visible")
        assert page.evaluate("document.activeElement.id") == "key-value"
        page.keyboard.type("another key")
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#key-problem")).to_have_text("this key is not known.")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#model dl")
        assert page.is_hidden("#key")
        page.set_input_files("#file", image)
        wait_for_answers(page)
        page.goto(f"{server.url}/docs")
        assert send(page, "model").status == 200
        page.evaluate("sessionStorage.clear()")
        assert send(page, "model").status == 401
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Use key").click()
        assert send(page, "model").status == 200
        stored = page.evaluate("[JSON.stringify({...localStorage}), document.cookie]")
        assert stored == [json.dumps({}), ""]
    context.close()
