"""`gapgate predict`: files and folders, without a server and by one."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import httpx
import pyarrow.parquet as pq
import pytest

from gapgate.data.formats import FORMATS, listed
from gapgate.evidence.sealed.archive import unpack_model
from serving.client.prediction import Local, find_images, predict
from serving.client.remote import Remote
from serving.guard.image_guard import SERVED
from serving.run import serve
from tests.end_to_end.workspace import Workspace
from tests.serving import packaged
from tests.serving.packaged import picture

KEY = "a-key"


@pytest.fixture(scope="module")
def bento(tmp_path_factory):
    return packaged.build(tmp_path_factory.mktemp("packaged")).path / "model.bento"


@pytest.fixture(scope="module")
def model(bento, tmp_path_factory):
    return unpack_model(bento, tmp_path_factory.mktemp("model") / "model")


@contextmanager
def serving(bento, folder, **options):
    with serve(bento, work_dir=folder, environment={f"GAPGATE_{name}": value for name, value in options.items()}) as it:
        it.wait_ready()
        yield it.url


@pytest.fixture(scope="module")
def url(bento, tmp_path_factory):
    with serving(bento, tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten images, a truncated one, one that is none and one in a format that is not read."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(picture(20 + number, 16, seed=number))
    (folder / "more" / "large.jpg").write_bytes(picture(700, 500, "JPEG", seed=8))
    (folder / "more" / "clear.webp").write_bytes(picture(30, 40, "WEBP", "RGBA", seed=9))
    (folder / "cut.png").write_bytes(picture(300, 300)[:2000])
    (folder / "none.png").write_bytes(b"no image")
    (folder / "empty.gif").write_bytes(b"")
    return folder


BAD = ("cut.png", "none.png", "empty.gif")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def refused(done):
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""
    return done.stderr


def test_a_server_and_this_process_give_the_same_rows_also_for_damaged_files(workspace, bento, url, photos):
    alone = workspace.gapgate("predict", photos, "--bento", bento, "--format", "csv")
    asked = workspace.gapgate("predict", photos, "--url", url, "--format", "csv")
    assert (alone.returncode, asked.returncode) == (1, 1), alone.stderr + asked.stderr
    mine, theirs = (list(csv.DictReader(done.stdout.splitlines())) for done in (alone, asked))
    assert [row["file"] for row in mine] == [str(file) for file in find_images([photos])[0]]
    assert len(mine) == 13
    for row, other in zip(mine, theirs, strict=True):
        assert bool(row["error"]) == row["file"].endswith(BAD)
        for name in row:
            if name.startswith("confidence") and row[name]:
                assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-6)
            else:
                # Here all formats of training are taken.
                assert row[name].replace(listed(FORMATS), listed(SERVED)) == other[name], name


def test_a_row_is_what_the_server_answers_to_the_file_alone(url, model, photos):
    (row,) = next(predict(Local(model, top_k=3), [photos / "1.png"]))
    request = Request(f"{url}/v1/predict?top_k=3", (photos / "1.png").read_bytes(), {"Content-Type": "image/png"})
    with urlopen(request) as response:
        answer = json.load(response)
    assert list(row.probabilities) == list(answer["probabilities"])
    assert list(row.probabilities.values()) == pytest.approx(list(answer["probabilities"].values()), abs=1e-6)
    assert {"name": row.model, "version": row.version} == answer["model"]
    assert row.receipt == answer["receipt"]


def test_a_folder_is_read_in_order_without_hidden_and_other_files_and_a_named_file_whatever_it_is_called(tmp_path):
    for name in ("b/2.PNG", "b/10.jpeg", "a.tif", ".a.png", ".thumbnails/a.png", "b/notes.txt", "b/.git/x.png", "odd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "@eaDir").mkdir()
    (tmp_path / "@eaDir" / "thumbnail.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    found, skipped = find_images([tmp_path / "odd", tmp_path, tmp_path / "b" / "2.PNG"])
    assert [file.relative_to(tmp_path).as_posix() for file in found] == ["odd", "a.tif", "b/10.jpeg", "b/2.PNG"]
    assert [file.name for file in skipped] == ["notes.txt"]


def test_the_table_shows_few_images_each_and_of_many_the_first_and_a_count(workspace, bento, photos):
    done = workspace.gapgate("predict", photos / "0.png", photos / "1.png", "--bento", bento, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:5] == ["file", "class", "confidence", "second", "class"]
    assert "0.png" in done.stdout
    assert "digits version 3" in done.stdout
    assert "share" not in done.stdout
    for number in range(30):
        shutil.copyfile(photos / f"{number % 8}.png", workspace.folder / f"{number:02}.png")
    shutil.copyfile(photos / "cut.png", workspace.folder / "bad.png")
    done = workspace.gapgate("predict", ".", "--bento", bento, "--output", "all.csv", COLUMNS="80")
    assert done.returncode == 1, done.stderr
    assert "19.png" in done.stdout
    assert "20.png" not in done.stdout
    assert "… and 10 more" in done.stdout
    counts = done.stdout.partition("share")[2].partition("no answer")[0].split()
    assert sum(int(count) for count in counts[1::3]) == 30
    assert "no answer to 1 of 31" in done.stdout
    assert "bad.png: the image is truncated" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert len((workspace.folder / "all.csv").read_text().splitlines()) == 32


def test_parquet_csv_and_json_hold_the_same(workspace, bento, photos):
    options = ("--bento", bento, "--top-k", 3, "--format", "json")
    done = workspace.gapgate("predict", photos, *options, "--output", "a.parquet")
    also = workspace.gapgate("predict", photos, *options, "--output", "a.csv")
    assert (done.returncode, also.returncode) == (1, 1), done.stderr + also.stderr
    rows = json.loads(done.stdout)
    table = pq.read_table(workspace.folder / "a.parquet").to_pylist()
    with (workspace.folder / "a.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(rows) == len(table) == len(lines) == 13
    for row, entry, line in zip(rows, table, lines, strict=True):
        assert row["file"] == entry["file"] == line["file"]
        assert row.get("error") == entry["error"] == (line["error"] or None)
        assert row.get("class") == entry["class"] == (line["class"] or None)
        assert list(row.get("probabilities", {})) == entry["classes"]
        assert list(row.get("probabilities", {}).values()) == pytest.approx(entry["probabilities"])
        if "class" in row:
            assert row["confidence"] == float(line["confidence"]) == pytest.approx(entry["confidence"])
            assert [line["class"], line["class_2"], line["class_3"]] == entry["classes"]
        assert row["model"] == {"name": "digits", "version": entry["version"]}
        assert row["receipt"] == entry["receipt"] == line["receipt"]


def test_a_file_that_cannot_be_written_is_said_before_the_work(workspace, bento, photos):
    for output, words in (("a.txt", ".parquet"), ("nowhere/a.csv", "no folder nowhere")):
        assert words in refused(workspace.gapgate("predict", photos, "--bento", bento, "--output", output))


def test_a_damaged_package_is_named_by_its_own_path(workspace, bento, photos, tmp_path):
    content = bytearray(bento.read_bytes())
    content[content.index(b'"verdict"', content.index(b"src/model/certificate.json")) + 1] ^= 1
    damaged = tmp_path / "damaged.bento"
    damaged.write_bytes(content)
    for command in (("predict", photos), ("look", photos / "0.png")):
        said = refused(workspace.gapgate(*command, "--bento", damaged))
        assert f"{damaged}: certificate.json was changed" in said


def test_nothing_to_do_is_one_line(workspace, bento):
    (workspace.folder / "empty").mkdir()
    for arguments, words in (
        (("empty", "--bento", bento), "no image in empty"),
        (("nowhere.png", "--bento", bento), "no such file or folder: nowhere.png"),
        ((bento, "--bento", "nowhere.bento"), "nowhere.bento is missing"),
        ((bento,), "no champion"),
        ((bento, "--bento", bento, "--url", "localhost"), "leave out --bento"),
    ):
        assert words in refused(workspace.gapgate("predict", *arguments))


def test_no_server_a_strange_one_and_a_wrong_key_are_one_line(workspace, bento, photos, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        away = f"127.0.0.1:{probe.getsockname()[1]}"
    assert f"no server answers at http://{away} (Connection refused)" in refused(
        workspace.gapgate("predict", photos, "--url", away)
    )
    assert "http or https" in refused(workspace.gapgate("predict", photos, "--url", "ftp://localhost"))
    with answering(lambda handler: reply(handler, 404, b"nothing")) as strange:
        assert "no server of Gapgate" in refused(workspace.gapgate("predict", photos, "--url", strange))
    with serving(bento, tmp_path / "keys", API_KEYS=sha256(KEY.encode()).hexdigest()) as url:
        assert "send your key" in refused(workspace.gapgate("predict", photos, "--url", url))
        assert "not known" in refused(workspace.gapgate("predict", photos, "--url", url, "--key", "other"))
        done = workspace.gapgate("predict", photos / "0.png", "--url", url, GAPGATE_API_KEY=KEY)
        assert done.returncode == 0, done.stderr


def test_requests_keep_the_limits_of_the_server_and_a_file_beyond_them_fails_alone(bento, model, photos, tmp_path):
    (tmp_path / "huge.bmp").write_bytes(picture(150, 150, "BMP"))
    files = [*find_images([photos])[0], tmp_path / "huge.bmp", photos / "0.png"]
    with (
        serving(bento, tmp_path / "small", MAX_BATCH="3", MAX_BODY_BYTES="60000") as url,
        closing(Remote(url, top_k=2)) as remote,
    ):
        batches = list(remote.batches(files))
        rows = [row for some in predict(remote, files) for row in some]
    assert [file for batch in batches for file in batch] == files
    assert max(map(len, batches)) == 3
    local = [row for some in predict(Local(model, top_k=2), files) for row in some]
    assert [row.error for row in rows if row.file.endswith("huge.bmp")] == [
        "67,854 bytes exceed the server's limit of 60,000 bytes for a request; "
        "predict without --url, or raise GAPGATE_MAX_BODY_BYTES there"
    ]
    for row, other in zip(rows, local, strict=True):
        if not row.file.endswith("huge.bmp"):
            assert (row.file, row.class_name) == (other.file, other.class_name)
            assert row.error == other.error.replace(listed(FORMATS), listed(SERVED))


def reply(handler, status, body, **headers):
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": len(body)}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def answering(respond):
    """An HTTP server that calls `respond` with each request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            respond(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def before(url, spoil):
    """A proxy before a server; `spoil(handler, body)` may answer a POST in its place, and then returns true."""

    def respond(handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if handler.command == "POST" and spoil(handler, body):
            return
        kept = {name: handler.headers[name] for name in ("Content-Type",) if handler.headers[name]}
        with urlopen(Request(url + handler.path, body or None, kept)) as answer:
            reply(handler, 200, answer.read())

    with answering(respond) as address:
        yield address


def rows_of(address, files):
    with closing(Remote(address, top_k=2)) as remote:
        return [row for some in predict(remote, files) for row in some]


def test_a_busy_server_and_a_dropped_connection_are_tried_again(url, photos):
    tries = []

    def spoil(handler, body):
        tries.append(len(tries))
        if len(tries) == 1:
            reply(handler, 429, b'{"error": {"message": "busy"}}', Retry_After="0.2")
        elif len(tries) in (2, 3):
            handler.close_connection = True  # without an answer
        return len(tries) < 4

    files = [photos / f"{number}.png" for number in range(8)]
    with before(url, spoil) as address:
        assert rows_of(address, files) == rows_of(url, files)
    assert len(tries) == 4


def test_of_a_refused_request_only_the_image_that_is_to_blame_gets_no_answer(url, photos):
    blamed = (photos / "5.png").read_bytes()

    def spoil(handler, body):
        if blamed in body:
            reply(handler, 500, b'{"error": {"code": "internal", "message": "the server failed"}}')
        return blamed in body

    with before(url, spoil) as address:
        rows = rows_of(address, find_images([photos])[0])
    assert {row.file: row.error for row in rows if row.error and not row.file.endswith(BAD)} == {
        str(photos / "5.png"): "the server failed"
    }


def test_a_server_that_goes_away_ends_the_work_and_leaves_no_part_of_a_file(workspace, url, photos):
    gone = threading.Event()

    def spoil(handler, body):
        if gone.is_set():
            handler.close_connection = True
            return True
        gone.set()
        return False

    with before(url, spoil) as address:
        done = workspace.gapgate(
            "predict", photos, "--url", address, "--batch-size", 2, "--output", "a.csv", "--format", "table"
        )
        assert "does not answer any more" in refused(done)
    assert list(workspace.folder.iterdir()) == []


def test_a_bento_answers_without_torch_or_a_platform(bento, photos):
    code = (
        "import sys\n"
        "from cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'mlflow', 'kfp', 'bentoml', 'dvc', 'onnx', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    command = [sys.executable, "-c", code, "predict", str(photos / "0.png"), "--bento", str(bento)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_receipt_that_an_answer_names_is_had_from_the_server(url, workspace):
    digest = httpx.get(f"{url}/v1/model").json()["receipt"]
    done = workspace.gapgate("receipt", digest, "--url", url)
    assert done.returncode == 0, done.stderr
    assert f"{digest}  content checked" in done.stdout
    refused(workspace.gapgate("receipt", "0" * 64, "--url", url))
    refused(workspace.gapgate("receipt", digest, "--url", "127.0.0.1:9"))
