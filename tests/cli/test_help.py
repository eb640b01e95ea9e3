import subprocess
import sys

import pytest

COMMANDS = [
    "",
    "run",
    "step",
    "sweep",
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
