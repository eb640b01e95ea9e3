"""Exact version of the data for a cluster: a repository that it can reach, and a commit."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from components.platform.credentials import take_from_repository
from gapgate.errors import DataError

_COMMIT = re.compile(r"[0-9a-f]{40}")  # SHA-1, in full
# With a scheme, or in ssh's short form git@host:path.
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+|[\w.-]+@[\w.-]+:\S+")
_TIMEOUT_S = 60


def is_url(repository: str) -> bool:
    """True if git takes it for a URL (`https://…`, `file://…`, `git@host:…`), not for a folder."""
    return _URL.fullmatch(repository) is not None


def check_reachable(repository: str) -> None:
    """Check that a repository is a URL without a password.

    Raises:
        DataError: it is a folder of this machine (the message names its remote's URL), or a URL with a password.
    """
    if is_url(repository):
        # In http(s) URLs any user part, since a token may stand in the place of a name; elsewhere only a password.
        if re.match(r"https?://[^/@]*@|\w+://[^/@]*:[^/@]*@", repository):
            raise DataError(
                "the repository's URL holds a password or token, which every run would show; leave it out, "
                "and put it into the Secret of the step ingest, as GIT_USERNAME and GIT_PASSWORD"
            )
        return
    origin = ""
    if Path(repository).is_dir():
        origin = _git("-C", repository, "remote", "get-url", "origin").stdout.strip()
    origin = take_from_repository(origin)
    instead = f"--data-repository {origin}" if is_url(origin) else "--data-repository with its URL"
    raise DataError(
        f"the repository {repository} is a folder of this machine, which the cluster cannot reach; "
        f"give {instead}, or --data-source digits"
    )


def is_commit(revision: str) -> bool:
    """True if it is a full commit id, 40 hexadecimal digits."""
    return _COMMIT.fullmatch(revision) is not None


def exact_commit(repository: str, revision: str) -> str:
    """The commit (40 hexadecimal digits) of a branch, a tag or HEAD now; a commit is returned as it is.

    Raises:
        DataError: the repository does not answer, or has no such revision.
    """
    # ls-remote cannot look up a commit; ingest reports one that is not there.
    if is_commit(revision):
        return revision
    names = _names(revision)
    # ls-remote reads the refs alone, without a clone; `--` keeps a URL that begins with a dash from being an option.
    done = _git("ls-remote", "--", repository, *names)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise DataError(
            f"git cannot read {repository}: {said[-1] if said else 'no reason given'}; check URL and access"
        )
    found = {name: commit for commit, name in (line.split("\t") for line in done.stdout.splitlines())}
    # In the order of `names`, where a tag comes before a branch, not in that of the answer.
    for name in names:
        if name in found:
            return found[name]
    raise DataError(
        f"{repository} has no branch or tag {revision}; `git ls-remote {repository}` lists them, "
        "and a commit needs all its 40 digits"
    )


def _names(revision: str) -> list[str]:
    """Full ref names that a short one may mean, in git's order: tags before branches (gitrevisions(7)). `^{}` is the
    commit of an annotated tag."""
    if not revision or revision == "HEAD":
        return ["HEAD"]
    if revision.startswith("refs/"):
        return [f"{revision}^{{}}", revision]
    return [f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}", f"refs/heads/{revision}"]


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Without a terminal to ask at, git says that it lacks a password instead of waiting for one.
    # The user's own GIT_SSH_COMMAND wins; the last two must hold, as messages are shown and nobody can type.
    environment = {"GIT_SSH_COMMAND": "ssh -oBatchMode=yes"} | os.environ | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise DataError("git is not installed here, and it finds the commit of the data; install it") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"`git {arguments[0]}` had no answer in {_TIMEOUT_S} s; check the repository's URL") from None
