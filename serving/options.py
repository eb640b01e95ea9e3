"""Every option of the server, read from the environment.

The docstring of a field is its meaning in the table on `/docs` and in `docs/reference/environment.md`.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gapgate.data.formats import FORMATS, MAX_PIXELS, Format
from gapgate.errors import SettingsError
from gapgate.variables import INTERNAL, OF_TESTS, VARIABLES

PREFIX = "GAPGATE_"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _words(value: Any) -> Any:
    """Split text at commas and white space: `a, b` → ("a", "b")."""
    return tuple(word for word in re.split(r"[\s,]+", value) if word) if isinstance(value, str) else value


def _page(address: str) -> str:
    """An address that may stand on a page, without a slash at its end."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("it is no address of a page; write https://HOST")
    if "@" in parts.netloc:
        raise ValueError("it holds a user or password, which everybody would see; leave them out")
    return address.rstrip("/")


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class Options(BaseModel):
    """Options of a server. The variable of a field is its name in capitals with `GAPGATE_` before it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str = ""
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION` in the registry at MLFLOW_TRACKING_URI, followed while the server
    runs. Empty: the model inside the Bento."""
    model_poll_s: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    """Seconds between two polls of the registry."""
    model_cache: str = ""
    """Folder that caches models from the registry. If it is kept, the server can restart while the registry is away.
    Empty: a folder below the system's temporary folder."""
    api_keys: Words = ()
    """SHA-256 of each accepted key in hex (the output of `sha256sum` for the key without a line feed), separated by
    commas. Empty: only this machine gets answers."""
    allow_anonymous: bool = False
    """True: everybody gets answers without a key."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 10 * 2**20
    """Largest body of a request in bytes."""
    max_buffered_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Most bytes of unfinished uploads that a worker holds in memory; beyond that an upload gets 429."""
    max_pixels: Annotated[int, Field(ge=64)] = MAX_PIXELS
    """Most pixels of an image; a larger one is refused before decoding."""
    formats: Words = ()
    """Formats of image files that are taken; `+tiff,+avif,+heic` adds to the usual png, jpeg, webp, bmp, gif and
    ppm. TIFF is then one page with 8 or 16 bits, uncompressed or with LZW or deflate; HEIC needs `pillow-heif`."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 128
    """Most images in a batch request."""
    concurrency: Annotated[int, Field(ge=1)] = 64
    """Requests that a worker has in work or in its queue; further ones get 429 with Retry-After."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Number of worker processes; each uses one core."""
    threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Number of threads in a worker for large images, batches and explanations."""
    timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 30.0
    """Timeout in seconds, for a body to arrive and again for its answer to be computed."""
    drain_s: Annotated[float, Field(ge=0, le=3_600)] = 5.0
    """Seconds after SIGTERM in which new requests still get answers; fewer if none come."""
    cors_origins: Words = ()
    """Origins whose pages may call the server from a browser (CORS), separated by commas; `*` for all."""
    root_path: Annotated[str, AfterValidator(lambda path: f"/{path.strip('/')}" if path.strip("/") else "")] = ""
    """Path below which a proxy shows the server, such as `/classifier`; the proxy may take it off or not."""
    mlflow_url: Annotated[str, AfterValidator(_page)] = ""
    """Address of MLflow as people's browsers reach it, such as `https://mlflow.example.org`: a receipt then links to
    its run and report. Everybody who may ask sees it. Empty: no links; `gapgate serve` for this machine alone takes
    that of MLFLOW_TRACKING_URI."""
    log_format: Literal["json", "text"] = "json"
    """Format of the lines of the log; `gapgate serve` writes text unless this is set."""
    access_log: bool = False
    """True: the log gets a line for each request."""

    @property
    def answers_all(self) -> bool:
        """True if other machines get answers, with a key or without."""
        return bool(self.api_keys) or self.allow_anonymous

    @cached_property
    def served(self) -> tuple[Format, ...]:
        """Formats of image files that are taken: those that `formats` names, or the usual ones and those with a plus.

        Raises:
            SettingsError: a name is unknown, or the format cannot be read here.
        """
        known = {form.option: form for form in FORMATS}
        for word in self.formats:
            if word.removeprefix("+") not in known:
                raise SettingsError(f"{variable('formats')} names {word}; it takes {', '.join(known)}")
        added = {word.removeprefix("+") for word in self.formats}
        is_whole = any(not word.startswith("+") for word in self.formats)
        served = tuple(form for form in FORMATS if form.option in added or (form.is_served and not is_whole))
        _check_formats(served)
        return served

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Options:
        """Read the options from environment variables; an empty variable counts as not set.

        Raises:
            SettingsError: a value is out of its range, a key is no SHA-256, or keys are set while nobody needs one.
        """
        environment = os.environ if environment is None else environment
        given = {name: environment.get(variable(name), "") for name in cls.model_fields}
        try:
            options = cls.model_validate({name: value for name, value in given.items() if value})
        except ValidationError as error:
            first = error.errors()[0]
            name, said = str(first["loc"][0]), first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{variable(name)}={given[name]}: {said}") from None
        keys = variable("api_keys")
        if not all(_SHA256.fullmatch(key) for key in options.api_keys):
            raise SettingsError(
                f"{keys} holds a value that is no SHA-256 in hex; `printf %s KEY | sha256sum` makes one"
            )
        if options.api_keys and options.allow_anonymous:
            both = f"{keys} and {variable('allow_anonymous')}"
            raise SettingsError(f"{both} are set; with the second nobody needs a key: unset one")
        # Computed now, so that a wrong name of a format ends the start and not the first request.
        _ = options.served
        return options


def _check_formats(served: tuple[Format, ...]) -> None:
    """Refuse formats that need what is not here."""
    from gapgate.data.picture.opening import has_heic, silence_libtiff

    names, said = {form.name for form in served}, f"{variable('formats')} names"
    if "HEIC" in names and not has_heic():
        raise SettingsError(f"{said} heic, which needs pillow-heif; install it, or leave heic out")
    if "TIFF" in names and not silence_libtiff():
        raise SettingsError(f"{said} tiff, which would fill the log with this Pillow; leave tiff out")


def variable(name: str) -> str:
    """Return the name of a field's environment variable."""
    return PREFIX + name.upper()


_OTHERS = VARIABLES.keys() | INTERNAL | OF_TESTS
"""Variables that other parts of the project read."""


def unknown(environment: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence for each variable `GAPGATE_*` that nothing reads, with the option that may be meant."""
    known = {variable(name) for name in Options.model_fields}
    sentences = []
    for name in sorted(os.environ if environment is None else environment):
        if name.startswith(PREFIX) and name not in known | _OTHERS:
            near = difflib.get_close_matches(name, known, 1)
            sentences.append(f"{name} is no option of the server" + (f"; did you mean {near[0]}?" if near else ""))
    return sentences


def table() -> list[tuple[str, str, str]]:
    """Return (variable, default, meaning) of each option."""
    rows = []
    for name, field in Options.model_fields.items():
        meaning = " ".join(str(field.description).split())
        if get_origin(field.annotation) is Literal:
            meaning += f" One of {', '.join(get_args(field.annotation))}."
        default = "" if field.default in ("", ()) else str(field.default).lower()
        rows.append((variable(name), default, meaning))
    return [*rows, *((name, "", meaning) for name, meaning in _STANDARD.items())]


_STANDARD = {
    "MLFLOW_TRACKING_URI": "Address of the registry's MLflow server, for `GAPGATE_MODEL`.",
    "MLFLOW_TRACKING_TOKEN": "Token for the registry; or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Address that OpenTelemetry spans are sent to over HTTP. Empty: no spans.",
}


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """True if an address is a loopback address or a name for it (RFC 6761, 6.3), in any case and with a final dot."""
    name = host.lower().removesuffix(".")
    if name in ("localhost", "ip6-localhost", "ip6-loopback", "localhost.localdomain") or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    # A dual-stack socket shows an IPv4 client as ::ffff:127.0.0.1, which Python before 3.13 does not call a loopback.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
