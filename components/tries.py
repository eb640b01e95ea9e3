"""Tries of what meets a passing fault: one on a user's machine, for some minutes in a pod."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TypeVar

from components.platform.tracking.spool import Spool
from gapgate.errors import PASSING_EXIT_CODE, GapgateError, SettingsError

T = TypeVar("T")
_VARIABLE = "GAPGATE_PATIENCE_S"
"""Environment variable with the seconds that all pauses of a step together may take."""
_PATIENCE_S = 300.0
# Each pause is twice the one before: 5, 10, 20, 40, then 60 s, nine tries in five minutes.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0


class AtOnce:
    """Tries of a step on a user's machine: one."""

    def exit_code(self, error: GapgateError) -> int:
        """Exit code of the process that the error ends."""
        return error.exit_code

    def until_done(self, call: Callable[[], T], spool: Spool) -> T:
        """The result of `call`."""
        return call()


class Patient(AtOnce):
    """Tries of a step in a pod, whose retries by KFP begin no container again that ended with an error."""

    def __init__(self, seconds: float) -> None:
        """Let all pauses of the step together take `seconds`."""
        self._left_s = seconds

    @classmethod
    def from_environment(cls) -> Patient:
        """The tries that `GAPGATE_PATIENCE_S` sets; five minutes without it.

        Raises:
            SettingsError: it is no number of seconds.
        """
        given = os.environ.get(_VARIABLE) or str(_PATIENCE_S)
        try:
            if 0 <= float(given) < math.inf:
                return cls(float(given))
        except ValueError:
            pass
        raise SettingsError(f"{_VARIABLE}={given} is no number of seconds; give 0 or more")

    def exit_code(self, error: GapgateError) -> int:
        """Exit code of the process that the error ends: 75 for every passing fault."""
        return PASSING_EXIT_CODE if error.is_passing else error.exit_code

    def until_done(self, call: Callable[[], T], spool: Spool) -> T:
        """The result of `call`, which is repeated after a passing fault; a line in the log tells of each."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return call()
            except GapgateError as error:
                if not error.is_passing or not self._left_s:
                    raise
                pause = min(pause, self._left_s)
                spool.waiting(str(error), pause)
            time.sleep(pause)
            self._left_s -= pause
            pause = min(pause * 2, _LONGEST_PAUSE_S)
