"""The page with the gate's verdict and what to do now."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gapgate.evidence.gate import judge
from gapgate.report.verdict import REMEDIES, UNDECIDED, deciding, headline, markdown
from gapgate.settings.sections import GateSettings

PARAMS = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text())


def certificate(*checks: tuple[str, str], reason: str = "because") -> dict[str, Any]:
    rows = [{"name": name, "verdict": verdict, "reason": reason} for name, verdict in checks]
    worst = next((one for one in ("fail", "undecided") if one in dict(checks).values()), "pass")
    return {"verdict": worst, "checks": rows}


def test_every_check_of_the_gate_has_a_remedy() -> None:
    names = {check.name for check in judge(GateSettings(), {"accuracy": float("nan")}).checks}
    assert names == set(REMEDIES)


@pytest.mark.parametrize("remedy", [*REMEDIES.values(), UNDECIDED])
def test_a_remedy_names_settings_that_exist(remedy: str) -> None:
    for section, name in re.findall(r"`(\w+)\.(\w+)`", remedy):
        assert name in PARAMS[section]


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ([("max_gap_points", "pass"), ("max_ece", "pass")], "Passed: the model holds on images it has not seen"),
        ([("max_gap_points", "undecided"), ("max_ece", "pass")], "Undecided: too few images to tell"),
        ([("max_gap_points", "undecided"), ("max_ece", "fail")], "Did not pass: its confidence cannot be trusted"),
        *([((name, "fail"),), "Did not pass: "] for name in REMEDIES),
    ],
)
def test_the_headline_says_the_verdict_by_the_check_that_decided(checks: list[tuple[str, str]], said: str) -> None:
    line = headline(certificate(*checks))
    assert line.startswith(said)
    assert "_" not in line


def test_a_model_that_passed_is_told_where_it_is() -> None:
    page = markdown(certificate(("max_ece", "pass")))
    assert page.startswith("# Gate: pass\n\n- **pass** `max_ece`: because\n\n## What now\n")
    assert "the next steps register and package" in page
    assert not any(remedy in page for remedy in REMEDIES.values())


def test_a_check_that_failed_has_its_remedy_and_undecided_ones_have_theirs_once() -> None:
    page = markdown(
        certificate(("max_ece", "fail"), ("max_gap_points", "undecided"), ("min_test_accuracy", "undecided"))
    )
    assert page.count(UNDECIDED) == 1
    assert [name for name, remedy in REMEDIES.items() if remedy in page] == ["max_ece"]


def test_a_class_name_is_never_markup() -> None:
    page = markdown(certificate(("min_class_recall", "fail"), reason="the class '<b>|[x](javascript:1)`'\nis weak"))
    (row,) = [line for line in page.splitlines() if line.startswith("- **fail**")]
    assert row == "- **fail** `min_class_recall`: the class '\\<b\\>\\|\\[x\\](javascript:1)\\`' is weak"


def test_the_first_check_with_the_verdict_decided_it() -> None:
    rows = [("max_gap_points", "pass"), ("min_test_accuracy", "undecided"), ("max_ece", "fail"), ("max_parity", "fail")]
    assert deciding(certificate(*rows))["name"] == "max_ece"  # type: ignore[index]
    rows = [("max_gap_points", "pass"), ("min_test_accuracy", "undecided"), ("max_ece", "undecided")]
    assert deciding(certificate(*rows))["name"] == "min_test_accuracy"  # type: ignore[index]
    assert deciding(certificate(("max_gap_points", "pass"), ("max_ece", "pass")))["name"] == "max_gap_points"  # type: ignore[index]
    assert deciding({"verdict": "fail", "checks": []}) is None
