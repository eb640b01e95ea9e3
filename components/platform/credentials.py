"""Credentials in URLs, taken out where a URL comes in: variables hand them on, so that nothing that is shown, stored or
sent has them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from gapgate.settings.sections import DataSettings

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"


def take_from_tracking() -> None:
    """Move user and password from `MLFLOW_TRACKING_URI` to the variables that MLflow has for them."""
    uri, user, password = _parts(os.environ.get(TRACKING_VARIABLE, ""))
    if user or password:
        os.environ |= {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password, TRACKING_VARIABLE: uri}


def take_from_repository(repository: str) -> str:
    """The URL of a git repository without user and password, which git and DVC ask for by `git_askpass` from now on; a
    folder, or a URL without them, as it is."""
    url, user, password = _parts(repository)
    if user or password:
        askpass = str(Path(__file__).with_name("git_askpass"))
        os.environ |= {"GIT_USERNAME": user, "GIT_PASSWORD": password, "GIT_ASKPASS": askpass}
    return url


def taken_from(data: DataSettings) -> DataSettings:
    """The settings of the data with the repository's URL as `take_from_repository` leaves it."""
    return data.model_copy(update={"repository": take_from_repository(data.repository)})


def _parts(url: str) -> tuple[str, str, str]:
    """A URL without user and password, and both. Other URLs than http(s), such as a database's, stay whole."""
    if not url.startswith(("http://", "https://")) or "@" not in url:
        return url, "", ""
    parts = urlsplit(url)
    # The last @ ends the password, which may hold others, and the first colon the user, which may not (RFC 7617).
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host)), unquote(user), unquote(password)
