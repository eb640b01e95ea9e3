"""The charts of an experiment's runs as MLflow shows them beside each other: training and validation of one quantity in
one chart, and what has one value a run in a table.

MLflow makes a chart of each metric by itself and keeps what a person arranges in that person's browser. What it keeps
for others is a view that was shared: a tag of the experiment, which a URL names (MLflow 3, `ExperimentPageUIState`).
"""

from __future__ import annotations

import json
from typing import Any

_KEY = "gapgate"
VIEW_TAG = f"mlflow.sharedViewState.{_KEY}"
VIEW_QUERY = f"&compareRunsMode=CHART&viewStateShareKey={_KEY}"
"""End of the URL of an experiment's list of runs that opens its charts in this view."""

_CURVES = {
    "Loss by epoch": ["train/loss", "val/loss"],
    "Accuracy by epoch": ["train/accuracy", "val/accuracy"],
    "Learning rate by epoch": ["train/learning_rate"],
    "Images a second": ["train/images_per_s"],
}
"""Title of a chart → its metrics, of training first."""
_ONE_VALUE = (
    "eval_train/accuracy",
    "eval_train/loss",
    "eval_val/accuracy",
    "eval_val/loss",
    "gap/high",
    "gap/low",
    "gap/points",
    "gap/vs_val_points",
    "parity/max_abs_difference",
    "test/accuracy",
    "test/ece",
    "test/loss",
)
_CARDS = {"columns": 2, "cardHeight": 340}
"""Charts beside each other: in MLflow's own three columns a title of a window of 1,280 pixels is cut to a letter."""
_SYSTEM = (
    "cpu_utilization_percentage",
    "disk_available_megabytes",
    "disk_usage_megabytes",
    "disk_usage_percentage",
    "network_receive_megabytes",
    "network_transmit_megabytes",
    "system_memory_usage_megabytes",
    "system_memory_usage_percentage",
)
_NO_CHART = ("system/peak_memory_bytes", *(f"system/{name}" for name in _SYSTEM))
"""Metrics that MLflow shows on a page of their own."""
_PAGE = {
    "selectedColumns": ["attributes.`Dataset`", *(f"metrics.`{name}`" for name in ("test/accuracy", "gap/points"))],
    "columnOrder": [],
    "columnWidths": {},
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsVisibilityMap": {},
    "runsHiddenMode": "FIRST_10_RUNS",
    "viewMaximized": False,
    "runListHidden": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "autoRefreshEnabled": True,
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}
"""The rest of the page, which MLflow takes from the view as well: its own defaults, and the figures of the gate."""


def view() -> str:
    """The view, as the value of `VIEW_TAG`, which may have 5,000 characters."""
    sections = {"Learning curves": "curves", "Figures of the evaluation": "figures"}
    curves, figures = sections.values()
    charts = [_line(title, metrics, curves) for title, metrics in _CURVES.items()]
    charts.append(
        {
            "type": "DIFFERENCE",
            "uuid": "difference",
            "deleted": False,
            "metricSectionId": figures,
            "chartName": "Figures and settings that differ",
            "compareGroups": ["Model metrics", "Parameters"],
            "showChangeFromBaseline": True,
            "showDifferencesOnly": True,
            "baselineColumnUuid": "",
        }
    )
    # MLflow adds a chart for each metric that none has as its first; one that was deleted it leaves alone.
    seconds = [metric for metrics in _CURVES.values() for metric in metrics[1:]]
    for number, metric in enumerate((*seconds, *_ONE_VALUE, *_NO_CHART)):
        charts.append({"type": "BAR", "uuid": str(number), "metricKey": metric, "deleted": True})
    state = _PAGE | {
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": place, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
            | _CARDS
            for name, place in sections.items()
        ],
        "isAccordionReordered": True,
    }
    return json.dumps(state, sort_keys=True, separators=(",", ":"))


def _line(title: str, metrics: list[str], section: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "uuid": title,
        "displayName": title,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 10,
        "metricSectionId": section,
        "metricKey": metrics[0],
        "selectedMetricKeys": metrics,
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
        "range": {},
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
    }
