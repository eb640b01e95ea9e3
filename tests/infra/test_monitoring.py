"""Alert rules and dashboard: they ask for series that the prediction service has, and fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.model.models import Models
from serving.model.predictor import Predictor
from serving.options import Options
from serving.telemetry.metrics import Metrics
from tests.infra.rendered import Object, of_kind, one

MONITORED = "production+monitoring"
ADDED = {"pod", "namespace", "job", "instance"}
"""Labels that Prometheus adds to each series of a target."""
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTION = re.compile(r"(gapgate[\w:]*)\s*(?:\{([^}]*)\})?")


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    """Name → labels of every series of `/metrics` of a server that has answered."""
    model = SimpleNamespace(name="flowers", version="3")
    answer = SimpleNamespace(receipt={"figures": {"gap_points": 1.5}})
    predictor = cast(Predictor, SimpleNamespace(model=model, receipt="sha256:00", receipt_answer=answer))
    models = Models(Options(), Path("none"))
    models.current = predictor
    metrics = Metrics(models)
    metrics.answered("/v1/predict", 200, 0.01)
    metrics.predicted(predictor, [("rose", 0.9)])
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def rules() -> list[Object]:
    return [rule for group in one(MONITORED, "PrometheusRule", "gapgate")["spec"]["groups"] for rule in group["rules"]]


def dashboard() -> Object:
    (found,) = [
        each
        for each in of_kind(MONITORED, "ConfigMap")
        if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
    ]
    return dict(json.loads(found["data"]["gapgate.json"]))


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_expressions_ask_only_for_series_and_labels_that_exist(series: dict[str, set[str]]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked: set[str] = set()
    for where, expression in expressions():
        for name, selector in _SELECTION.findall(expression):
            asked.add(name)
            assert name in series or name in recorded, f"{where}: there is no series {name}"
            labels = set(re.findall(r"(\w+)\s*[=!]~?", _STRINGS.sub("", selector)))
            assert labels <= series.get(name, {"version", "class"}) | ADDED, f"{where}: {name} has no {labels}"
    assert asked >= {"gapgate_requests_total", "gapgate_request_seconds_bucket", "gapgate_predictions_total"}
    assert asked >= {"gapgate_confidence_bucket", "gapgate_model_info", "gapgate_ready", "gapgate_model_refused"}


def test_grouping_keeps_only_labels_that_exist(series: dict[str, set[str]]) -> None:
    known = set().union(*series.values()) | ADDED
    for where, expression in expressions():
        for labels in re.findall(r"\b(?:by|on|ignoring|group_left)\s*\(([^)]*)\)", expression):
            assert {label.strip() for label in labels.split(",") if label.strip()} <= known, where


def test_thresholds_on_buckets_are_bounds_of_buckets() -> None:
    from serving.telemetry import metrics

    bounds = {str(bound) for bound in metrics._CONFIDENCES} | {"+Inf"}
    found = [bound for _, expression in expressions() for bound in re.findall(r'le="([^"]*)"', expression)]
    assert found
    assert set(found) <= bounds


def test_every_alert_says_how_bad_and_what() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 7
    for rule in alerts:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["for"]


def test_the_dashboard_has_its_panels_in_place() -> None:
    found = dashboard()
    panels = found["panels"]
    assert found["uid"] == "gapgate"
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


QUIET = 5 * 60
"""Minutes before a change."""
STEADY = {
    'gapgate_ready{pod="a"}': f"1x{QUIET + 120}",
    'gapgate_model_refused{pod="a"}': f"0x{QUIET + 120}",
    'gapgate_model_info{pod="a",version="3"}': f"1x{QUIET + 120}",
    'gapgate_model_gap_points{pod="a",name="m",version="3"}': f"2.9x{QUIET + 120}",
    'gapgate_requests_total{pod="a",route="/v1/predict",status="200"}': f"0+600x{QUIET + 120}",
    'gapgate_request_seconds_bucket{pod="a",route="/v1/predict",le="0.1"}': f"0+600x{QUIET + 120}",
    'gapgate_request_seconds_bucket{pod="a",route="/v1/predict",le="1.0"}': f"0+600x{QUIET + 120}",
    'gapgate_request_seconds_bucket{pod="a",route="/v1/predict",le="+Inf"}': f"0+600x{QUIET + 120}",
    'gapgate_predictions_total{pod="a",version="3",class="cat"}': f"0+300x{QUIET + 120}",
    'gapgate_predictions_total{pod="a",version="3",class="dog"}': f"0+300x{QUIET + 120}",
    'gapgate_confidence_bucket{pod="a",version="3",le="0.5"}': f"0+6x{QUIET + 120}",
    'gapgate_confidence_bucket{pod="a",version="3",le="+Inf"}': f"0+600x{QUIET + 120}",
}
"""A value a minute, for five hours and two more."""
CHANGES: dict[str, tuple[dict[str, str], set[str]]] = {
    "nothing": ({}, set()),
    "no model": ({'gapgate_ready{pod="a"}': f"1x{QUIET} 0x120"}, {"GapgateNotReady"}),
    "refused": ({'gapgate_model_refused{pod="a"}': f"0x{QUIET} 1x120"}, {"GapgateModelRefused"}),
    "two versions": ({'gapgate_model_info{pod="b",version="4"}': f"1x{QUIET + 120}"}, {"GapgateVersionsDiffer"}),
    "gap": ({'gapgate_model_gap_points{pod="a",name="m",version="3"}': f"2.9x{QUIET} 5.8x120"}, {"GapgateGap"}),
    "errors": (
        {'gapgate_requests_total{pod="a",route="/v1/predict",status="500"}': f"0x{QUIET} 0+20x120"},
        {"GapgateErrors"},
    ),
    "not ready is no error of a client": (
        {'gapgate_requests_total{pod="a",route="/readyz",status="503"}': f"0x{QUIET} 0+20x120"},
        set(),
    ),
    "overload": (
        {'gapgate_requests_total{pod="a",route="/v1/predict",status="429"}': f"0x{QUIET} 0+100x120"},
        {"GapgateOverloaded"},
    ),
    "slow": (
        {'gapgate_request_seconds_bucket{pod="a",route="/v1/predict",le="0.1"}': f"0+600x{QUIET} {QUIET * 600}+0x120"},
        {"GapgateSlow"},
    ),
    "another mix of classes": (
        {'gapgate_predictions_total{pod="a",version="3",class="dog"}': f"0+300x{QUIET} {QUIET * 300}+30x120"},
        {"GapgateClassDrift"},
    ),
    "a class that was never seen": (
        {'gapgate_predictions_total{pod="a",version="3",class="owl"}': f"_x{QUIET} 0+600x120"},
        {"GapgateClassDrift"},
    ),
    "unsure": (
        {'gapgate_confidence_bucket{pod="a",version="3",le="0.5"}': f"0+6x{QUIET} {QUIET * 6}+90x120"},
        {"GapgateLowConfidence"},
    ),
}


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus); it runs the rules"
)
def test_each_alert_fires_for_its_reason_alone(tmp_path: Path) -> None:
    groups = one(MONITORED, "PrometheusRule", "gapgate")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups))
    names = [rule["alert"] for rule in rules() if "alert" in rule]
    assert set().union(*(fired for _, fired in CHANGES.values())) == set(names)
    tests: list[dict[str, Any]] = []
    for change, (values, fired) in CHANGES.items():
        inputs = [{"series": series, "values": values} for series, values in (STEADY | values).items()]
        # Whether an alert fires: its own labels and words are not compared here.
        checks = [
            {
                "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)',
                "eval_time": f"{QUIET + 110}m",
                "exp_samples": [{"labels": "{}", "value": int(name in fired)}],
            }
            for name in names
        ]
        tests.append({"name": change, "interval": "1m", "input_series": inputs, "promql_expr_test": checks})
    (tmp_path / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
