"""Every option of the server, from its environment: one table that the documentation pages print."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gapgate.errors import SettingsError

PREFIX = "GAPGATE_"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _words(value: Any) -> Any:
    """`a, b` → ("a", "b")"""
    return tuple(word for word in re.split(r"[\s,]+", value) if word) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class Options(BaseModel):
    """How a server runs. The variable of a field is its name in capitals with `GAPGATE_` before it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str = ""
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION` in the registry at MLFLOW_TRACKING_URI, followed while the server
    runs; empty: the model inside the Bento."""
    model_poll_s: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    """Seconds between two looks at the registry."""
    model_cache: str = ""
    """Folder for models from the registry; one that outlives the server lets it restart while the registry is away.
    Empty: a temporary one."""
    api_keys: Words = ()
    """SHA-256 of each accepted key in hex (`printf %s KEY | sha256sum`), separated by commas. Without any, only this
    machine is answered."""
    allow_anonymous: bool = False
    """Answer everybody without a key."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 10 * 2**20
    """Largest body of a request."""
    max_buffered_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Largest sum of bodies that a worker is receiving; beyond it a request gets 429."""
    max_pixels: Annotated[int, Field(ge=64)] = 25_000_000
    """Most pixels of an image; more are refused before decoding. A WebP file takes up to 16 bytes of memory a pixel."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 128
    """Most images in a batch request."""
    concurrency: Annotated[int, Field(ge=1)] = 64
    """Requests that a worker works on or keeps waiting; more get 429 with Retry-After."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes; each answers on one core."""
    threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads of a worker for large images, batches and explanations."""
    timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 30.0
    """Seconds in which a body must arrive, and an answer be found."""
    drain_s: Annotated[float, Field(ge=0, le=3_600)] = 5.0
    """After SIGTERM: seconds in which new requests are still answered, while any come."""
    cors_origins: Words = ()
    """Origins whose pages may call the server, separated by commas; `*` for all."""
    log_format: Literal["json", "text"] = "json"
    """Form of the log's lines."""
    access_log: bool = False
    """A log line for each request."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Options:
        """Read the variables; one that is set to nothing counts as not set.

        Raises:
            SettingsError: a value that does not fit, or a key that is no SHA-256.
        """
        environment = os.environ if environment is None else environment
        given = {name: environment.get(variable(name), "") for name in cls.model_fields}
        try:
            options = cls.model_validate({name: value for name, value in given.items() if value})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise SettingsError(f"{variable(name)}={given[name]}: {first['msg']}") from None
        if not all(_SHA256.fullmatch(key) for key in options.api_keys):
            name = variable("api_keys")
            raise SettingsError(f"{name} holds what is no SHA-256 in hex; `printf %s KEY | sha256sum` makes one")
        if options.api_keys and options.allow_anonymous:
            both = f"{variable('api_keys')} and {variable('allow_anonymous')}"
            raise SettingsError(f"{both} are set; with the second nobody needs a key: unset one")
        return options


def variable(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


def table() -> list[tuple[str, str, str]]:
    """(variable, default, meaning) of each option."""
    rows = []
    for name, field in Options.model_fields.items():
        meaning = " ".join(str(field.description).split())
        if get_origin(field.annotation) is Literal:
            meaning += f" One of {', '.join(get_args(field.annotation))}."
        default = "" if field.default in ("", ()) else str(field.default).lower()
        rows.append((variable(name), default, meaning))
    return [*rows, *_STANDARD]


_STANDARD = [
    ("MLFLOW_TRACKING_URI", "", "The registry's server, for `GAPGATE_MODEL`."),
    ("MLFLOW_TRACKING_TOKEN", "", "Its token; or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "", "Where OpenTelemetry spans go, over HTTP; empty: nowhere."),
]


def is_loopback(host: str) -> bool:
    """Whether an address (or the name localhost) is this machine's own."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
