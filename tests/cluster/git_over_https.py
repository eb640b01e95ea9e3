"""A git server over https that asks for a user and a password, with what the image `gapgate/step` holds. It runs in a
pod (company.py), whose folder /company has the certificate and the password."""

import base64
import ssl
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import make_wsgi_chain

COMPANY = Path("/company")
ALLOWED = "Basic " + base64.b64encode((COMPANY / "git").read_bytes().strip()).decode()


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def answer(environment: dict[str, Any], start_response: Any) -> list[bytes]:
    """Give git's answer to what comes with the password, with its length, without which libgit2 takes it for cut off;
    ask for the password else."""
    if environment.get("HTTP_AUTHORIZATION") != ALLOWED:
        start_response("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="company"'), ("Content-Length", "0")])
        return [b""]
    written: list[bytes] = []
    head: list[Any] = []

    def begin(*status_and_headers: Any) -> Any:
        head[:] = status_and_headers
        return written.append

    returned = b"".join(git(environment, begin))
    body = b"".join(written) + returned
    status, headers = head[:2]
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]


git = make_wsgi_chain(DictBackend({"/images.git": Repo.init_bare("/tmp/images.git", mkdir=True)}))
with make_server("", 443, answer, server_class=Server) as server:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(COMPANY / "tls.crt", COMPANY / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
