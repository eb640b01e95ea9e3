"""The lock on a model's aliases: threads with a workspace each, as machines have, on one real MLflow store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

from components.platform.registry import promotion_lock as locks
from components.platform.registry.promotion_lock import TICKET, Held, promotion_lock
from components.platform.tracking.mlflow_client import client
from gapgate.errors import TrackingError

NAME = "animals"


@pytest.fixture
def others(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Held]:
    """A place in the queue, of another machine each time: without the file lock of this workspace."""
    client().create_registered_model(NAME)
    monkeypatch.setattr(locks, "_POLL_S", 0.01)
    machines = count()
    return lambda: Held(client(), NAME, f"machine-{next(machines)}")


def tickets() -> set[str]:
    return {key for key in client().get_registered_model(NAME).tags if key.startswith(TICKET)}


def test_one_at_a_time_is_inside_and_nothing_is_left(others: Callable[[], Held]) -> None:
    inside: list[str] = []
    most: list[int] = []

    def use(held: Held, name: str) -> None:
        for _ in range(3):
            held.enter()
            inside.append(name)
            most.append(len(inside))
            client().get_registered_model(NAME)
            inside.remove(name)
            held.leave()

    threads = [threading.Thread(target=use, args=(others(), str(number))) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 12
    assert tickets() == set()


class Undeleting(MlflowClient):
    """A client of a server that fails whenever a tag is to be removed."""

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        raise MlflowException("the server fails", INTERNAL_ERROR)


def test_a_place_of_this_workspace_that_cannot_be_removed_holds_nobody_up(others: Callable[[], Held]) -> None:
    others()
    inside = threading.Event()

    def enter() -> None:
        for _ in range(2):
            with promotion_lock(Undeleting(), NAME):
                pass
        inside.set()

    threading.Thread(target=enter, daemon=True).start()
    assert inside.wait(60)
    assert len(tickets()) == 2


def test_an_error_inside_lets_the_next_one_in(others: Callable[[], Held]) -> None:
    with pytest.raises(ZeroDivisionError), promotion_lock(client(), NAME):
        print(1 / (len(tickets()) - 1))
    with promotion_lock(client(), NAME) as held:
        held.check()


# Both who wait may remove the place; MLflow's store only warns the second, and pytest makes an error of it.
@pytest.mark.filterwarnings("ignore:DELETE statement on table")
def test_the_place_of_a_killed_process_is_taken_after_a_while_and_that_of_one_who_waits_is_not(
    others: Callable[[], Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_ABANDONED_S", 0.6)
    monkeypatch.setattr(locks, "_RENEWED_S", 0.1)
    killed, *waiting = others(), others(), others()
    killed.enter()
    order: list[int] = []

    def use(number: int) -> None:
        waiting[number].enter()
        order.append(number)
        waiting[number].leave()

    threads = [threading.Thread(target=use, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order) == [0, 1]
    assert tickets() == set()


def test_the_place_of_a_killed_process_of_the_same_workspace_is_taken_at_once(others: Callable[[], Held]) -> None:
    with promotion_lock(client(), NAME):
        (left,) = tickets()
    client().set_registered_model_tag(NAME, left, "1:1")
    with promotion_lock(client(), NAME):
        assert left not in tickets()


def test_one_that_was_held_up_too_long_changes_nothing(
    others: Callable[[], Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = others()
    held.enter()
    held.check()
    monkeypatch.setattr(locks, "_RENEWED_S", -6)
    with pytest.raises(TrackingError, match="too slow to change an alias of animals safely; try again"):
        held.check()
    held.leave()


def test_those_who_promote_other_models_do_not_wait(others: Callable[[], Held]) -> None:
    client().create_registered_model("plants")
    with promotion_lock(client(), NAME), promotion_lock(client(), "plants"):
        pass
