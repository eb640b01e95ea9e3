import subprocess
import sys
from pathlib import Path

import pytest

from gapgate import __version__

ROOT = Path(__file__).parents[2]

COMMANDS = [
    "",
    "run",
    "step",
    "sweep",
    "report",
    "compare",
    "ui",
    "serve",
    "predict",
    "look",
    "similar",
    "models",
    "promote",
    "rollback",
    "receipt",
    "clean",
    "sync",
    "data add",
    "submit",
    "schedule",
    "runs",
    "logs",
    "cancel",
    "compile",
    "settings",
    "doctor",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_platform_and_no_torch(command):
    code = (
        "import sys\n"
        "from cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'mlflow', 'kfp', 'bentoml', 'dvc'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command.split(), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_version_is_printed():
    done = subprocess.run([sys.executable, "-c", "from cli import main; main()", "--version"], capture_output=True)
    assert done.stdout.decode() == f"gapgate {__version__}\n"


def test_arguments_have_one_notation():
    usage = [line for line in (ROOT / "docs/reference/cli.md").read_text().splitlines() if line.startswith("`gapgate ")]
    assert len(usage) > 20
    assert not [line for line in usage if "[[" in line]
