"""Access control: holders of a key get answers; while no key is configured, only this machine does."""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import lru_cache

from gapgate.errors import ServeError
from serving.http.request import Request
from serving.http.responses import ApiError
from serving.options import Options, is_loopback, variable


def authorize(request: Request) -> None:
    """Return if a request may be answered.

    The keys are random, so a fast hash is enough. All hashes are compared, each in constant time.

    Raises:
        ApiError: 401, no key or a wrong one; 403, no key is configured and the request comes from another machine, or
            from a page of another site in a browser on this machine, under a name of its own (DNS rebinding).
    """
    options = request.options
    if options.allow_anonymous:
        return
    if not options.api_keys:
        # A proxy on this machine has the loopback address too; its headers show that the client is elsewhere. A page
        # whose name was rebound to 127.0.0.1 comes from here, but the browser sends that name as `Host`.
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
    # A list, not a generator: `any` would stop at the first match, and the time would tell its place.
    matches = [hmac.compare_digest(digest, key) for key in options.api_keys]
    if not any(matches):
        raise ApiError(401, "unauthorized", "this key is not known", _CHALLENGE)


def is_authorized(request: Request) -> bool:
    """True if `authorize` lets a request through."""
    try:
        authorize(request)
    except ApiError:
        return False
    return True


def check_address(host: str, options: Options) -> None:
    """Refuse to listen for other machines while the options do not say who gets answers.

    Raises:
        ServeError: the address is open to other machines; the message gives the remedies.
    """
    if options.api_keys or options.allow_anonymous or is_loopback(host):
        return
    raise ServeError(
        f"--host {host} is open to other machines and no key is set; set {variable('api_keys')}, "
        f"or {variable('allow_anonymous')}=true to answer everybody"
    )


@lru_cache(maxsize=64)
def _is_here(host: str) -> bool:
    """True if an address or a Host header names this machine; an empty one does."""
    return not host or is_loopback(_PORT.sub("", host))


_PORT = re.compile(r":[0-9]+$")
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
