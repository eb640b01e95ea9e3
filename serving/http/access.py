"""Access control: holders of a key get answers; while no key is configured, only this machine does."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re

from gapgate.errors import ServeError
from serving.http.request import Request
from serving.http.responses import ApiError
from serving.options import Options, is_loopback, variable

logger = logging.getLogger("gapgate.serving")


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
        # whose name was rebound to 127.0.0.1 comes from here, but the browser sends that name as `Host`. A Unix socket
        # has no address. HTTP/1.0 is what nginx speaks to servers unless told otherwise: its plain `proxy_pass` adds no
        # header at all.
        by_proxy = request.http_version == "1.0" or any(
            name in _PROXY_HEADERS or name.startswith((b"x-forwarded", b"x-original-")) for name in request.headers
        )
        both = request.client_host, _PORT.sub("", request.header("host"))
        if not by_proxy and all(not host or is_loopback(host) for host in both):
            return
        message = f"only this machine is answered, and no proxy, while {variable('api_keys')} is not set"
        raise ApiError("loopback_only", message)
    scheme, _, bearer = request.header("authorization").partition(" ")
    given = (bearer.strip() if scheme.lower() == "bearer" else "") or request.header("x-api-key")
    if not given:
        message = "send your key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
        raise ApiError("unauthorized", message, _CHALLENGE)
    # The bytes as they came: `Request.header` has decoded them as Latin-1.
    digest = hashlib.sha256(given.encode("latin-1")).hexdigest()
    # A list, not a generator: `any` would stop at the first match, and the time would tell its place.
    matches = [hmac.compare_digest(digest, key) for key in options.api_keys]
    if not any(matches):
        raise ApiError("unauthorized", "this key is not known", _CHALLENGE)


def check_address(host: str, options: Options) -> None:
    """Refuse to listen for other machines while the options do not say who gets answers.

    Raises:
        ServeError: the address is open to other machines; the message gives the remedies.
    """
    if options.answers_all or is_loopback(host):
        return
    raise ServeError(
        f"--host {host} is open to other machines and no key is set; set {variable('api_keys')}, "
        f"or {variable('allow_anonymous')}=true to answer everybody"
    )


def warn_of_proxies(options: Options) -> None:
    """Log what a server without keys cannot tell."""
    if not options.answers_all:
        logger.info(
            "no key is set: only this machine is answered. Requests that show a proxy are refused, but one on this "
            "machine that speaks HTTP/1.1 and adds no header looks like you; set %s before you put one in front",
            variable("api_keys"),
        )


_PORT = re.compile(r"(?<=[^:]):[0-9]+$")
"""Port behind a host in the `Host` header; `::1` has none."""
_PROXY_HEADERS = frozenset(
    b"""forwarded via x-real-ip x-client-ip x-cluster-client-ip x-proxyuser-ip client-ip
    cf-connecting-ip cf-ray true-client-ip fastly-client-ip fly-client-ip cdn-loop
    x-envoy-external-address x-envoy-expected-rq-timeout-ms x-appengine-user-ip x-azure-clientip
    x-arr-clientcert x-scheme x-nginx-proxy""".split()
)
"""Headers by which proxies and clouds name the client or themselves; and all of x-forwarded-* and x-original-*."""
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
