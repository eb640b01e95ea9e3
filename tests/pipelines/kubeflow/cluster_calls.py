"""What the tests of the commands for a cluster share."""

import subprocess
import time

DIGITS = ("--data-source", "digits")
WAIT = (*DIGITS, "--wait", "--poll", "0.01")


def only(found):
    (one,) = found.values()
    return one


def git(root, *arguments):
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    done = subprocess.run(["git", "-C", root, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(root, text=None):
    """Commit the data, changed where `text` is given; returns the commit."""
    from dvc.repo import Repo

    if text:
        (root / "data").mkdir(exist_ok=True)
        (root / "data" / "a.txt").write_text(text)
        with Repo(str(root)) as repo:
            repo.add(str(root / "data"))
    git(root, "add", "-A")
    git(root, "commit", "--allow-empty", "-m", "data")
    return git(root, "rev-parse", "HEAD")


def serve_pods(server, step, content, kept):
    """Give every run to come a pod, or a log, of a step."""
    create = server.create_run

    def create_run(query, body):
        run = create(query, body)
        kept[server.workflows[run["run_id"]].pod(step)] = content
        return run

    server.create_run = create_run


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
