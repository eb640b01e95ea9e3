"""Numbers and names as a person reads them."""

from __future__ import annotations


def number(value: float, form: str = "z.1f") -> str:
    """A number with a true minus sign, `−1.5`. `form` is a format of Python; the `z` of its default makes −0.0 a plain
    zero."""
    return format(value, form).replace("-", "−")


def shortened(text: str, max_chars: int) -> str:
    """The text, with an ellipsis in place of what is longer than `max_chars` characters."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
