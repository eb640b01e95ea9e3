"""How often, and after which pauses, a step tries again."""

import pytest

from components import tries
from components.tries import AtOnce, Patient
from gapgate.errors import PASSING_EXIT_CODE, DataError, SettingsError, TrackingError


class Waits:
    """What a spool hears of, and the pauses that were made."""

    def __init__(self, monkeypatch):
        self.told, self.slept = [], []
        monkeypatch.setattr(tries.time, "sleep", self.slept.append)

    def waiting(self, message, seconds):
        self.told.append((message, seconds))


@pytest.fixture
def waits(monkeypatch):
    return Waits(monkeypatch)


def failing(times, error):
    """A call that fails so often, and then answers."""
    left = [times]

    def call():
        if left[0]:
            left[0] -= 1
            raise error
        return "done"

    return call


AWAY = TrackingError("the server is away")


@pytest.mark.parametrize(
    ("patience_s", "pauses"),
    [
        (300.0, [5, 10, 20, 40, 60, 60, 60, 45]),
        (75.0, [5, 10, 20, 40]),
        (76.0, [5, 10, 20, 40, 1]),
        (3.0, [3]),
        (0.0, []),
    ],
)
def test_pauses_double_to_a_minute_and_take_no_more_than_the_patience_in_all(waits, patience_s, pauses):
    with pytest.raises(TrackingError):
        Patient(patience_s).until_done(failing(99, AWAY), waits)
    assert waits.slept == pytest.approx(pauses)
    assert waits.told == [(str(AWAY), pytest.approx(pause)) for pause in pauses]


def test_what_has_passed_is_answered_and_later_calls_have_the_rest_of_the_patience(waits):
    patient = Patient(20.0)
    assert patient.until_done(failing(2, AWAY), waits) == "done"
    assert waits.slept == [5, 10]
    with pytest.raises(TrackingError):
        patient.until_done(failing(9, AWAY), waits)
    assert waits.slept == [5, 10, 5]


def test_a_fault_that_does_not_pass_is_not_tried_again(waits):
    with pytest.raises(DataError):
        Patient(300.0).until_done(failing(1, DataError("no images")), waits)
    with pytest.raises(TrackingError):
        AtOnce().until_done(failing(1, AWAY), waits)
    assert waits.slept == waits.told == []


def test_in_a_pod_every_passing_fault_has_the_code_of_one():
    data = DataError("no images")
    assert [kind.exit_code(data) for kind in (AtOnce(), Patient(1))] == [data.exit_code] * 2
    assert AtOnce().exit_code(AWAY) == AWAY.exit_code
    assert Patient(1).exit_code(AWAY) == PASSING_EXIT_CODE


@pytest.mark.parametrize(("given", "left"), [(None, 300.0), ("", 300.0), ("0", 0.0), ("12.5", 12.5)])
def test_the_environment_sets_the_patience(monkeypatch, given, left):
    monkeypatch.delenv("GAPGATE_PATIENCE_S", raising=False)
    if given is not None:
        monkeypatch.setenv("GAPGATE_PATIENCE_S", given)
    assert Patient.from_environment()._left_s == left


@pytest.mark.parametrize("given", ["-1", "inf", "nan", "soon"])
def test_what_is_no_number_of_seconds_is_refused(monkeypatch, given):
    monkeypatch.setenv("GAPGATE_PATIENCE_S", given)
    with pytest.raises(SettingsError, match=f"GAPGATE_PATIENCE_S={given} is no number of seconds"):
        Patient.from_environment()
