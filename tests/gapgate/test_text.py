import pytest

from gapgate.text import number, shortened


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
