import pytest

from gapgate.errors import DataError
from gapgate.text import number, printable, redacted, shortened, size


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-1.54, "z.1f", "−1.5"),
        (-0.04, "z.1f", "0.0"),
        (1.25, "+.1f", "+1.2"),
        (-12.0, "zg", "−12"),
        (-0.0, "zg", "0"),
    ],
)
def test_a_number_has_a_true_minus_and_no_negative_zero(value: float, form: str, text: str) -> None:
    assert number(value, form) == text


def test_a_number_has_one_decimal_where_nothing_else_is_asked() -> None:
    assert (number(-1.54), number(-0.04)) == ("−1.5", "0.0")


def test_a_text_is_shortened_to_exactly_the_characters_it_may_have() -> None:
    assert shortened("12345", 5) == "12345"
    assert shortened("123456", 5) == "1234…"


def test_a_name_is_one_line_that_cannot_steer_a_terminal() -> None:
    assert printable("été 猫\n\x1b[31m\udce9") == "été 猫\\n\\x1b[31m\\udce9"
    assert printable("\x9b2J\u202e\u2028") == "\\x9b2J\\u202e\\u2028"
    assert str(DataError("no \x1b[2J\n")) == "no \\x1b[2J\\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no https://git.example/a@b here", "no https://git.example/a@b here"),
        ("to https://token@git.example: 401", "to https://***@git.example: 401"),
        ("'HTTP://user:p@ss@git.example/a'", "'HTTP://***@git.example/a'"),
        ("postgresql+psycopg://me:pass@db/m", "postgresql+psycopg://me:***@db/m"),
        ("ssh://git@git.example/a", "ssh://git@git.example/a"),
        ("https://a.b/c?x=1&access_token=abc&y=2", "https://a.b/c?x=1&access_token=***&y=2"),
    ],
)
def test_the_secrets_of_urls_are_not_shown_and_never_in_an_error(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert str(DataError(text)) == shown


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (10 * 2**20, "10 MiB"),
        (3 * 2**19, "1.5 MiB"),
        (2**30, "1 GiB"),
        (4096, "4 KiB"),
        (10_000_001, "10,000,001 bytes"),
        (0, "0 bytes"),
    ],
)
def test_a_size_is_in_the_largest_unit_in_which_it_is_round(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text
