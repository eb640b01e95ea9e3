import os
import subprocess

import pytest

from components.platform import credentials, workspace
from gapgate.settings.sections import DataSettings

SET = (
    *("GIT_USERNAME", "GIT_PASSWORD", "GIT_ASKPASS"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
)


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch):
    """No variables of the developer's own."""
    for name in SET:
        monkeypatch.delenv(name, raising=False)


def test_git_is_told_user_and_password_and_the_url_has_neither():
    data = credentials.taken_from(DataSettings(repository="https://us%40er:pa%3Ass@git.example:8443/a/b.git"))
    assert data.repository == "https://git.example:8443/a/b.git"
    asked = [
        subprocess.run([os.environ["GIT_ASKPASS"], prompt], capture_output=True, text=True, check=True).stdout
        for prompt in ("Username for 'https://git.example': ", "Password for 'https://us%40er@git.example': ")
    ]
    assert asked == ["us@er\n", "pa:ss\n"]


@pytest.mark.parametrize(
    "repository", [".", "/a@b", "git@git.example:a/b", "ssh://git@git.example/b", "https://a.b/c@d"]
)
def test_a_repository_without_a_password_stays_as_it_is(repository):
    assert credentials.take_from_repository(repository) == repository
    assert "GIT_USERNAME" not in os.environ


def test_mlflow_is_told_user_and_password_and_the_address_has_neither(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:pass@mlflow.example/sub")
    assert workspace.tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == "https://mlflow.example/sub"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("user", "pass")


def test_the_address_of_a_database_stays_whole(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:pass@db.example/mlflow")
    assert workspace.tracking_uri() == "postgresql://user:pass@db.example/mlflow"
