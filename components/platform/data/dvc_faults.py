"""Faults of git and of DVC remotes: the meaning of each and its remedy, read from the chain of exceptions behind it.

DVC wraps each fault in one of its own ("SCM error", "failed to load directory"). Only the innermost causes, those of
the network libraries, tell a wrong password from a server that is down.
"""

from __future__ import annotations

import errno
import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gapgate.errors import DataError, RemoteAwayError

_AWAY = ("408", "429", "500", "502", "503", "504", "InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout")
_ASKED = 3
"""Objects for which a remote is asked once more."""
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH)
_BROKEN = ("ServerDisconnectedError", "ClientPayloadError", "IncompleteRead", "HangupException")
_GIT_STATUS = re.compile(r"unexpected http resp (\d+)")
_GIT: Mapping[str, str] = {
    "401": "it asks for a user and a password, or refuses those given; set GIT_USERNAME and GIT_PASSWORD",
    "403": "the user may not read it (403); give GIT_USERNAME read access, or name another user",
    "404": "there is no git repository; check the address",
    "dumb": "the server hands out files and does not speak git's protocol (dumb HTTP); serve the repository by "
    "`git http-backend`, ssh or `git daemon`",
    "ssh": "the ssh key is refused; give one that the server knows",
}
_REMOTE: Mapping[str, str] = {
    "401": "it asks for a user and a password, or refuses those given; set them with `dvc remote modify`",
    "403": "it refuses to give the files (403); ask for read access, or set another user with `dvc remote modify`",
    "ssh": "the ssh key is refused; give one that the server knows",
    "NoCredentials": "there are no S3 keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "S3 does not know the key; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret of the S3 key is wrong; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the S3 keys have expired; get new ones, AWS_SESSION_TOKEN with them",
    "InvalidToken": "S3 refuses AWS_SESSION_TOKEN; leave it out, or get new keys together with it",
    "RequestTimeTooSkewed": "the clock here differs by more than 15 minutes from that of S3; set it",
    "AccessDenied": "the S3 keys may not read there; grant them s3:GetObject and s3:ListBucket",
    "NoSuchBucket": "there is no such S3 bucket; check the url in .dvc/config",
}


def git_fault(error: BaseException, what: object) -> DataError | None:
    """The reason why git does not get `what`; None if the chain of `error` does not tell."""
    return _fault(error, f"git cannot get {what}", _GIT)


def remote_fault(error: BaseException, what: object, repo: Any, missing: Sequence[str] = ()) -> DataError | None:
    """The reason why the DVC remote of an opened repository does not give `what`, of which the objects `missing` are
    wanted; None if neither the chain of `error` nor the remote tells, as where it does not have the files."""
    begin = f"the DVC remote does not give {what}"
    found = _fault(error, begin, _REMOTE)
    # DVC begins with HEAD, and S3's answer to that has no body, so no reason; of a pull it keeps no cause at all.
    if found is None or any(_code(cause) in ("400", "403") for cause in _chain(error)):
        found = _fault(_refusal(repo, missing), begin, _REMOTE) or found
    return found


def _fault(error: BaseException | None, begin: str, remedies: Mapping[str, str]) -> DataError | None:
    for cause in reversed(list(_chain(error))):
        if said := _unreachable(cause):
            return RemoteAwayError(f"{begin}: {said}")
        if (code := _code(cause)) in _AWAY:
            return RemoteAwayError(f"{begin}: the server fails ({code}); try again later")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DataError(f"{begin}: its certificate is not trusted; name your CA's file in SSL_CERT_FILE")
        if code in remedies:
            return DataError(f"{begin}: {remedies[code]}")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unreachable(cause: BaseException) -> str:
    """The text for a server that does not answer; empty for another cause."""
    if isinstance(cause, socket.gaierror):
        return f"the host is unknown ({cause.strerror}); check its name, and the DNS"
    if isinstance(cause, ConnectionRefusedError):
        return "the connection is refused; check host and port, and that the server runs"
    if isinstance(cause, TimeoutError):
        return "no answer in time; check host and port, and what stands between"
    name = type(cause).__name__
    if isinstance(cause, ConnectionError) or getattr(cause, "errno", None) in _NO_WAY or name in _BROKEN:
        return f"the connection broke ({getattr(cause, 'strerror', None) or name}); try again later"
    return ""


def _code(cause: BaseException) -> str:
    """HTTP status or S3's error code of a cause; empty for one that has none."""
    name, said = type(cause).__name__, str(cause)
    if isinstance(response := getattr(cause, "response", None), dict):  # botocore
        return str(response.get("Error", {}).get("Code", ""))
    if name == "ClientResponseError":  # aiohttp
        return str(getattr(cause, "status", ""))
    if found := _GIT_STATUS.search(said):  # dulwich
        return found[1]
    if "invalid content-type" in said or "Invalid info/refs" in said:  # libgit2, dulwich
        return "dumb"
    names = {
        "HTTPUnauthorized": "401",
        "NotGitRepository": "404",
        "PermissionDenied": "ssh",
        "NoCredentialsError": "NoCredentials",
        "PartialCredentialsError": "NoCredentials",
    }
    return names.get(name, "")


def _refusal(repo: Any, missing: Sequence[str]) -> BaseException | None:
    """The error with which the remote of a DVC repository answers a GET request for one of the objects `missing`, or
    for one that there is not."""
    error: BaseException | None = None
    # At the end a hash that nothing has: a remote that lets us in answers that it is not there.
    asked = [*missing[:_ASKED], "0" * 32]
    for value in asked:
        try:
            store = repo.cloud.get_remote_odb()
            path = store.oid_to_path(value)
            if hasattr(store.fs.fs, "call_s3"):  # its `cat_file` begins with HEAD too
                bucket, _, key = path.partition("/")
                store.fs.fs.call_s3("get_object", Bucket=bucket, Key=key)
            content = store.fs.fs.cat_file(path)
            if value.endswith(".dir"):  # DVC keeps a list of files only after all of them
                listed = [entry["md5"] for entry in json.loads(content)]
                # The files of the list next, before that last one.
                asked[-1:-1] = [each for each in listed if not repo.cache.local.exists(each)][:_ASKED]
        except Exception as refusal:
            if _fault(refusal, "", _REMOTE):
                return refusal
            error = refusal
    return error
