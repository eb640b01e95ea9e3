"""A receipt names its content by a digest that anyone can compute."""

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from gapgate.evidence.sealed.receipt import Receipt, verify

CONTENT: dict[str, Any] = {
    "model_name": "shoes",
    "model_version": "3",
    "run": "run-1",
    "tracking_run": "abc",
    "data": {"source": "folder", "dirty": False},
    "code_revision": "0" * 40,
    "image_digest": "",
    "verdict": "pass",
    "figures": {"test_accuracy": 0.9, "gap_points": None},
    "artifacts": {"model": "sha256:1", "splits": "sha256:2"},
    "settings": {"train": {"epochs": 3, "name": "Schuhe für 5 €"}},
}


def by_hand(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_the_digest_is_the_sha256_of_the_canonical_json() -> None:
    assert Receipt.model_validate(CONTENT).digest == by_hand(CONTENT)
    backwards = dict(reversed(CONTENT.items()))
    assert Receipt.model_validate(backwards).digest == by_hand(CONTENT)


def test_a_receipt_with_its_own_digest_is_accepted() -> None:
    assert verify(CONTENT, by_hand(CONTENT)).model_dump() == CONTENT


@pytest.mark.parametrize("field", list(CONTENT))
def test_a_change_of_any_field_is_refused(field: str) -> None:
    other = {"x": "y"} if field in ("data", "artifacts") else {} if isinstance(CONTENT[field], dict) else "other"
    with pytest.raises(ValueError, match=f"has the digest sha256:[0-9a-f]{{64}}, not {by_hand(CONTENT)}"):
        verify({**CONTENT, field: other}, by_hand(CONTENT))


def test_a_field_too_many_or_too_few_is_no_receipt() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        verify({**CONTENT, "note": ""}, by_hand(CONTENT))
    with pytest.raises(ValidationError, match="Field required"):
        verify({name: value for name, value in CONTENT.items() if name != "verdict"}, by_hand(CONTENT))


def test_a_receipt_is_frozen() -> None:
    receipt = verify(CONTENT, by_hand(CONTENT))
    with pytest.raises(ValidationError, match="frozen"):
        receipt.verdict = "fail"  # type: ignore[misc]
