"""Who is answered: holders of a key; without any key configured, this machine alone."""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import lru_cache

from gapgate.errors import ServeError
from serving.options import Options, is_loopback, variable
from serving.request import Request
from serving.responses import ApiError


def authorize(request: Request) -> None:
    """Let a request through.

    The hashes are of random keys, so a fast hash is enough; every one is compared, in constant time.

    Raises:
        ApiError: 401, no key or a wrong one; 403, another machine where no key is configured, or a page of another site
            in a browser on this one, which finds its way here by a name of its own (DNS rebinding).
    """
    options = request.options
    if options.allow_anonymous:
        return
    if not options.api_keys:
        came_directly = not (request.header("forwarded") or request.header("x-forwarded-for"))
        if came_directly and _is_here(request.client_host) and _is_here(request.header("host")):
            return
        message = f"only this machine is answered while {variable('api_keys')} is not set"
        raise ApiError(403, "loopback_only", message)
    scheme, _, bearer = request.header("authorization").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else request.header("x-api-key")
    if not given:
        message = "send your key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
        raise ApiError(401, "unauthorized", message, _CHALLENGE)
    digest = hashlib.sha256(given.encode("latin-1")).hexdigest()
    matches = [hmac.compare_digest(digest, key) for key in options.api_keys]
    if not any(matches):
        raise ApiError(401, "unauthorized", "this key is not known", _CHALLENGE)


def is_authorized(request: Request) -> bool:
    """Whether `authorize` lets a request through."""
    try:
        authorize(request)
    except ApiError:
        return False
    return True


def check_address(host: str, options: Options) -> None:
    """Refuse to listen for other machines where nobody said who may ask.

    Raises:
        ServeError: with the ways out.
    """
    if options.api_keys or options.allow_anonymous or is_loopback(host):
        return
    raise ServeError(
        f"--host {host} is open to other machines and no key is set; set {variable('api_keys')}, "
        f"or {variable('allow_anonymous')}=true to answer everybody"
    )


@lru_cache(maxsize=64)
def _is_here(host: str) -> bool:
    """Whether an address, a Host header or the lack of one names this machine."""
    return not host or is_loopback(_PORT.sub("", host))


_PORT = re.compile(r":[0-9]+$")
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
