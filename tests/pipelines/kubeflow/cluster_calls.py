"""What the tests of the commands for a cluster share."""

import subprocess

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


def serve_log(server, step, text):
    """Give every run to come a log of a step."""
    create = server.create_run

    def create_run(query, body):
        run = create(query, body)
        server.logs[server.workflows[run["run_id"]].pod(step)] = text
        return run

    server.create_run = create_run
