"""Commands on a real git and DVC repository."""

import subprocess
import sys
from pathlib import Path

from dvc.repo import Repo
from PIL import Image


def dvc(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def git(*arguments: str, cwd: Path) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


def begin(root: Path) -> Path:
    """Make a git and DVC repository."""
    root.mkdir()
    git("init", "-q", cwd=root)
    Repo.init(str(root)).close()  # in this process, which saves the second that the command needs to start
    return root


def push(root: Path, remote: Path) -> None:
    """Push what is pinned to a remote that is a folder, and commit the pins."""
    (root / ".dvc" / "config").write_text(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n")
    with Repo(str(root)) as repo:
        repo.push()
    git("add", "-A", cwd=root)
    git("commit", "-qm", "pin", cwd=root)


def draw(folder: Path) -> Path:
    """Draw three images each of cats and of dogs."""
    for name, value in (("cats", 10), ("dogs", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (9, 9), value + number).save(folder / name / f"{number}.png")
    return folder


def stored(root: Path, content: bytes) -> Path:
    """The file of a cache or of a remote that is a folder with this content."""
    (found,) = [path for path in root.rglob("*") if path.is_file() and path.read_bytes() == content]
    return found


def swap(file: Path, content: bytes) -> None:
    """Write another content into a stored file, which DVC made read-only."""
    mode = file.stat().st_mode
    file.chmod(0o644)
    file.write_bytes(content)
    file.chmod(mode)
