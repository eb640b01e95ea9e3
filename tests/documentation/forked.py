"""`gapgate` in a fork of the session's server of imported modules, for a shell, without the seconds of imports."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from gapgate.process import fork_server


def main() -> None:
    """Answer the command line of this process, and end with its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder, "code")
        arguments = {"arguments": sys.argv[1:], "code": str(code)}
        fork_server.call("tests.documentation.forked:answer", arguments, needs="components.package")
        sys.exit(int(code.read_text()))


def answer(arguments: list[str], code: str) -> None:
    """Run the command in this process, and write its exit code."""
    from cli import main as command_line

    sys.argv = ["gapgate", *arguments]
    try:
        command_line()
        found = 0
    except SystemExit as ended:
        found = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    Path(code).write_text(str(found))


def write_command(folder: Path) -> None:
    """Make `folder` with the program `gapgate`, and put it on the PATH."""
    root = Path(__file__).parents[2]
    folder.mkdir(parents=True)
    program = folder / "gapgate"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        "from tests.documentation.forked import main\nmain()\n"
    )
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
