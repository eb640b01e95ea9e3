"""Addresses to listen on: IPv6, both kinds at once, names, Unix sockets."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import httpx
import pytest

from gapgate.artifacts import Artifact
from gapgate.errors import ServeError
from serving.listening import listen, listen_on_path
from serving.run import serve
from tests.serving.packaged import picture

PNG = {"content-type": "image/png"}
has_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "localhost."])
def test_a_name_is_listened_on_and_answers(host: str) -> None:
    with listen(host, 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")


@has_ipv6
def test_the_address_for_all_takes_both_kinds() -> None:
    with listen("::", 0) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()


@has_ipv6
def test_a_server_on_the_loopback_address_of_ipv6_answers_this_machine(bento: Artifact, tmp_path: Path) -> None:
    with serve(bento.path / "model.bento", host="::1", work_dir=tmp_path) as server:
        server.wait_ready()
        assert server.url.startswith("http://[::1]:")
        assert httpx.post(f"{server.url}/v1/predict", content=picture(16, 16), headers=PNG).status_code == 200


def test_a_server_on_a_unix_socket_answers_its_user_alone_and_leaves_nothing_behind(
    bento: Artifact, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with serve(bento.path / "model.bento", uds=path, work_dir=tmp_path / "work") as server:
        server.wait_ready()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
            assert client.post("/v1/predict", content=picture(16, 16), headers=PNG).status_code == 200
            refused = client.get("/v1/model", headers={"x-real-ip": "192.0.2.1"})
            assert refused.status_code == 403
        with pytest.raises(ServeError, match="another server listens there"):
            listen_on_path(path, False)
    assert not path.exists()


def test_a_socket_that_a_killed_server_left_is_replaced_and_another_file_is_not(tmp_path: Path) -> None:
    listen_on_path(tmp_path / "socket", False).close()
    listen_on_path(tmp_path / "socket", True).close()
    (tmp_path / "file").touch()
    with pytest.raises(ServeError, match=r"cannot listen on .*file"):
        listen_on_path(tmp_path / "file", False)
