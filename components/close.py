"""close: close in MLflow the runs on a cluster that no step could close, since their pods were killed or canceled.

A CronJob of the cluster runs it (`python -m components.close`), and each step of a run does the same at its beginning.
"""

from __future__ import annotations

import sys

from components.platform.tracking import mlflow_closing
from gapgate.errors import GapgateError


def main() -> int:
    """Close them, with a line for each; returns the exit code."""
    try:
        for name, status in mlflow_closing.end_lost().items():
            print(f"gapgate: close: run {name} is closed as {status}")
    except GapgateError as error:
        print(f"gapgate: close: error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
