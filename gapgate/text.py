"""Numbers and names as a person reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_USER_OF_HTTP = re.compile(r"(https?://)[^\s/?#'\"<>]*@", re.IGNORECASE)
_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]*://[^\s/?#'\"<>:@]*:)[^\s/?#'\"<>]*@", re.IGNORECASE)
_IN_QUERY = re.compile(
    r"([?&][^\s=&#'\"]*(?:token|secret|password|passwd|key|sig)[^\s=&#'\"]*=)[^\s&#'\"<>]+", re.IGNORECASE
)
_LEVELS = "▁▂▃▄▅▆▇█"
# C0 and C1 controls, line separators and marks of direction (UAX #9), and surrogates, as which Python keeps bytes that
# are no UTF-8 (PEP 383).
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def number(value: float, form: str = "z.1f") -> str:
    """Format a number with a true minus sign, `−1.5`.

    `form` is a format of Python; the `z` in its default turns −0.0 into 0.0.
    """
    return format(value, form).replace("-", "−")


def percent(fraction: float, decimals: int = 1) -> str:
    """Format a fraction in percent, `91.6 %`."""
    return f"{number(100 * fraction, f'z.{decimals}f')} %"


def size(num_bytes: int) -> str:
    """Format a number of bytes, `10 MiB`; one that is no round number of KiB as bytes."""
    for unit, of in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        # Only if one decimal says it exactly: 1.5 MiB, but 1,600,000 bytes.
        if num_bytes >= of and num_bytes * 10 % of == 0:
            return f"{num_bytes / of:g} {unit}"
    return f"{num_bytes:,} bytes"


def curve(values: Sequence[float], width: int = 12) -> str:
    """The last `width` values as blocks, from the lowest to the highest of all."""
    low, high = min(values), max(values)
    span = (high - low) or 1
    return "".join(_LEVELS[round((value - low) / span * (len(_LEVELS) - 1))] for value in values[-width:])


def shortened(text: str, max_chars: int) -> str:
    """Shorten a text to `max_chars` characters; the last one is an ellipsis where something was cut."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def printable(text: str) -> str:
    """Write line breaks, other control characters, marks that turn the direction of writing, and bytes that are no
    UTF-8 as backslash escapes, so that a name is one line and cannot steer a terminal."""
    return _STEERING.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """`printable`, but for line feeds and tabs, which stay."""
    return _STEERING.sub(lambda found: found[0] if found[0] in "\n\t" else _escaped(found), text)


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def redacted(text: str) -> str:
    """Replace the secrets of URLs in a text by three stars: the password, with http(s) also the user, whose place may
    hold a token, and values of a query that are called token, key, secret, password or signature."""
    if "://" not in text:
        return text
    return _IN_QUERY.sub(r"\1***", _PASSWORD.sub(r"\1***@", _USER_OF_HTTP.sub(r"\1***@", text)))
