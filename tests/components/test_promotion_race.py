"""Eight processes with a workspace each promote at once, on one MLflow server with PostgreSQL: the champion is always
the one that the rule gives. `GAPGATE_PROMOTION_ROUNDS` sets how often."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.platform.registry.mlflow_registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, Version
from components.platform.registry.promotion_lock import TICKET
from components.platform.tracking.mlflow_client import client
from components.promotion import DECISION_TAG
from tests.components import releases
from tests.components.releases import NAME, Made
from tests.infra.postgres import running
from tests.serving.registry_server import RegistryServer

pytest.importorskip("psycopg", reason="MLflow speaks to PostgreSQL by psycopg")
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.onnx

ROUNDS = int(os.environ.get("GAPGATE_PROMOTION_ROUNDS") or 3)
WRONG_CLASSES = (7, 6, 5, 4, 3, 2, 0, 0)
"""For each process, of how many of the 7 classes its model gets all images wrong; two are equally good."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server of two processes on PostgreSQL."""
    with running() as postgres:
        address = postgres.database("promotions").replace("postgresql://", "postgresql+psycopg://")
        mlflow = RegistryServer(tmp_path)
        try:
            mlflow.start("--backend-store-uri", address, "--workers", "2")
            yield mlflow.url
        finally:
            mlflow.stop()


def test_of_eight_that_promote_at_once_the_champion_is_always_the_one_that_the_rule_gives(
    server: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    made = [releases.make(tmp_path / f"r{n}", f"r{n}", _model(tmp_path, n)) for n in range(len(WRONG_CLASSES))]
    versions = [releases.publish(each)[0] for each in made]
    wrong = {version.version: count for version, count in zip(versions, WRONG_CLASSES, strict=True)}
    context = multiprocessing.get_context("fork")  # MLflow is imported already, which takes seconds
    pipes, processes = [], []
    for number, (each, version) in enumerate(zip(made, versions, strict=True)):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=_promote, args=(theirs, tmp_path / f"home{number}", each, version)))
        pipes.append(ours)
    for process in processes:
        process.start()
    try:
        for number in range(ROUNDS):
            _reset()
            for pipe in pipes:
                pipe.send("go")
            decisions = {version.version: pipe.recv() for version, pipe in zip(versions, pipes, strict=True)}
            _check(decisions, wrong)
            print(f"round {number + 1} of {ROUNDS}: champion {Registry().champion(NAME)}", file=sys.stderr)
    finally:
        for pipe in pipes:
            pipe.send("end")
        for process in processes:
            process.join(60)


def _model(folder: Path, number: int) -> Any:
    """A model that takes the first classes for each other, the more the lower its number."""
    weights = releases.best_weights(folder / f"images{number}")
    count = WRONG_CLASSES[number]
    order = [*np.roll(range(count), 1), *range(count, weights.shape[1])]
    return releases.with_weights(weights[:, order] * (1 + number / 100))  # no two are the same


def _promote(pipe: Connection, home: Path, made: Made, version: Version) -> None:
    os.environ["GAPGATE_HOME"] = str(home)
    with closing(pipe):
        while pipe.recv() == "go":
            pipe.send(releases.decide(made, version))


def _reset() -> None:
    """Take all aliases and all that an earlier round has left."""
    registry = client()
    for row in Registry().versions(NAME):
        for tag in {DECISION_TAG, PREVIOUS} & set(row.tags):
            registry.delete_model_version_tag(NAME, row.version, tag)
        for alias in row.aliases:
            registry.delete_registered_model_alias(NAME, alias)


def _check(decisions: dict[str, dict[str, Any]], wrong: dict[str, int]) -> None:
    rows = {row.version: row for row in Registry().versions(NAME)}
    (champion,) = (version for version, row in rows.items() if CHAMPION in row.aliases)
    assert wrong[champion] == 0, decisions
    assert [d["reason"] for d in decisions.values()].count("the first version that passed") == 1, decisions
    # One line of champions, from the first to the last, in which nobody follows a better one.
    line = [champion]
    while previous := rows[line[-1]].tags.get(PREVIOUS):
        line.append(previous)
    assert set(line) == {version for version, decision in decisions.items() if decision["alias"] == CHAMPION}, decisions
    assert [wrong[version] for version in line] == sorted(wrong[version] for version in line), decisions
    for version, decision in decisions.items():
        assert json.loads(rows[version].tags[DECISION_TAG]) == decision
        if decision["alias"] == CHALLENGER:
            assert wrong[decision["comparison"]["champion_version"]] < wrong[version], decisions
    assert not [key for key in client().get_registered_model(NAME).tags if key.startswith(TICKET)]
