"""Connection to Kubeflow Pipelines: `kfp.Client` with timeouts, and errors that say what to do."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import kfp
import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH, set_volume_credentials
from kfp_server_api import ApiException
from kfp_server_api.rest import RESTClientObject

from gapgate.errors import ClusterAwayError, ClusterError, SettingsError

T = TypeVar("T")
OLDEST = (2, 16)
"""Oldest version of Kubeflow Pipelines that runs the pipeline: its accelerators by parameter and its retries."""
TIMEOUT_S = (10, 60)
"""Seconds to connect, and to wait for an answer; without a timeout kfp.Client waits for ever."""
_PAUSES_S = (0.5, 2.0)
_PASSING = (429, 502, 503, 504)  # too many requests; a proxy that finds no server, or waits for it in vain
_SIGN_IN = (
    "give --token (GAPGATE_KFP_TOKEN), a file with it (KF_PIPELINES_SA_TOKEN_PATH), or the browser's cookie "
    "with --cookie (GAPGATE_KFP_COOKIE)"
)


@dataclass(frozen=True, slots=True)
class Access:
    """Address of Kubeflow Pipelines, and credentials."""

    host: str = ""
    """URL of its UI or API; empty in a pod of the cluster."""
    token: str = ""
    """Bearer token."""
    cookie: str = ""
    """Cookie of a browser's session, `name=value`."""

    def url(self) -> str:
        """The host in the form that `kfp.Client` takes, also of an address copied from the browser; empty in a pod of
        the cluster.

        Raises:
            SettingsError: it is no URL, or missing outside of a cluster.
        """
        if not self.host and "KUBERNETES_SERVICE_HOST" in os.environ:
            return ""
        if not self.host:
            raise SettingsError("where is Kubeflow Pipelines? Give --host URL, or set KF_PIPELINES_ENDPOINT")
        parts = urlsplit(self.host)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"--host {self.host} is no URL; write it like http://localhost:8080")
        return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


class _Rest(RESTClientObject):  # type: ignore[misc]
    """HTTP layer of the API's client, with a timeout for every request; a web page is an error, not an empty answer."""

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Send one request; `options` are those of the base class."""
        options["_request_timeout"] = options.get("_request_timeout") or TIMEOUT_S
        answer = super().request(method, url, **options)
        # A login page has status 200, and the API's client reads an object without any field out of it.
        if "text/html" in (answer.getheader("content-type") or ""):
            place = urlsplit(url)
            raise ClusterError(
                f"{place.scheme}://{place.netloc} answers with a web page, not as Kubeflow Pipelines does: the address "
                f"is another's, or a login stands before it; check --host, or {_SIGN_IN}"
            )
        return answer


class Client(kfp.Client):  # type: ignore[misc]
    """`kfp.Client` that asks for the server's health once; the original asks five times, 5 s apart."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        """The server's answer on its health, which also says if it is for several users."""
        return self._healthz_api.healthz_service_get_healthz(_request_timeout=TIMEOUT_S)

    def _get_config_with_default_credentials(self, config: Any) -> Any:
        # The original looks for the token's file in each pod, and logs two lines where there is none; `connect` looks.
        return config

    def _load_config(self, *arguments: Any) -> Any:
        config = super()._load_config(*arguments)
        config.retries = urllib3.Retry(
            total=len(_PAUSES_S) + 1,
            # Only reads: a POST that was lost on the way back would be made twice. `make_once` retries those.
            allowed_methods=["GET"],
            status_forcelist=(500, *_PASSING),
            backoff_factor=_PAUSES_S[0],
            # After the last try the answer comes back as it is: its body has KFP's own message.
            raise_on_status=False,
        )
        return config


def connect(access: Access) -> tuple[Client, bool]:
    """Connect; returns the client after the server's first answer, and True if the server is for several users.

    Raises:
        ClusterAwayError: there is none.
        ClusterError: it is not Kubeflow Pipelines that answers, or it refuses the credentials.
    """
    # A pod's token is a file that Kubernetes renews; these credentials read it again.
    is_file = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) or Path(KF_PIPELINES_SA_TOKEN_PATH).exists()
    credentials = set_volume_credentials.ServiceAccountTokenVolumeCredentials() if is_file else None
    url = access.url()
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it logs a line for each retry
    with asking(url):
        try:
            client = Client(
                host=url or None,
                existing_token=access.token or None,
                cookies=access.cookie or None,
                credentials=credentials,
                ssl_ca_cert=os.environ.get("SSL_CERT_FILE"),
            )
            api = client._healthz_api.api_client
            # All parts of kfp.Client share this one API client, so one exchange covers every request.
            api.rest_client = _Rest(api.configuration)
            is_shared = bool(client.get_kfp_healthz().multi_user)
            _check_version(url, json.loads(get(client, "/apis/v2beta1/healthz") or "{}").get("tag_name"))
            return client, is_shared
        except OSError as error:
            raise ClusterError(f"the token cannot be read: {error}; check KF_PIPELINES_SA_TOKEN_PATH") from None
        except ApiException as error:
            if error.status == 404:
                raise ClusterError(f"{url} has no Kubeflow Pipelines 2 (404); check --host") from None
            raise


def _check_version(url: str, tag: str | None) -> None:
    """Refuse a server that is known to be older than `OLDEST`; one that was built by hand has no version.

    Raises:
        ClusterError: it is older.
    """
    match = re.match(r"(\d+)\.(\d+)", tag or "")
    if match and (int(match[1]), int(match[2])) < OLDEST:
        raise ClusterError(f"{url} is Kubeflow Pipelines {tag}; {'.'.join(map(str, OLDEST))} or newer is needed")


def get(client: Client, path: str, query: dict[str, str] | None = None, *, of_ui: bool = False) -> str | None:
    """Answer to a GET request that the API's client has no method for; None if there is no such page.

    Raises:
        ApiException: the server refuses it.
    """
    api = client._healthz_api.api_client
    headers = dict(api.default_headers) | ({"Cookie": api.cookie} if api.cookie else {})
    api.update_params_for_auth(headers, None, ["Bearer"])
    # The UI forwards the API's paths, so outside the cluster both have one address.
    base = os.environ.get("KF_PIPELINES_UI_ENDPOINT") if of_ui else None
    url = (base or api.configuration.host).rstrip("/") + path
    # The UI says 500 of a pod without a log, which no retry changes; None: the retries of every other request.
    retries = False if of_ui else None
    answer = api.rest_client.pool_manager.request(
        "GET", url, fields=query, headers=headers, retries=retries, timeout=urllib3.Timeout(*TIMEOUT_S)
    )
    # The UI answers an unknown path with its own page.
    if (
        answer.status == 404
        or (of_ui and answer.status == 500)
        or "text/html" in answer.headers.get("content-type", "")
    ):
        return None
    if answer.status != 200:
        raise ApiException(status=answer.status, reason=answer.reason)
    return str(answer.data.decode(errors="replace"))


@contextlib.contextmanager
def asking(host: str) -> Iterator[None]:
    """Drop what kfp.Client prints in the block, and raise `ClusterError` for a request that fails."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ApiException as error:
        raise _refusal(host, error) from None
    except urllib3.exceptions.HTTPError as error:
        raise _no_answer(host, error) from None


def make_once(make: Callable[[], T], find: Callable[[], T | None]) -> T:
    """Call `make`; after a failure that leaves open whether the object was made, call `find`, and retry only if that
    returns None."""
    for pause_s in (*_PAUSES_S, 0.0):
        try:
            return make()
        except ApiException as error:
            # 409 and 5xx leave open whether it was made: another process may have, or a proxy lost the answer.
            if error.status != 409 and (error.status or 0) < 500:
                raise
            failure: Exception = error
        except urllib3.exceptions.HTTPError as error:
            failure = error
        time.sleep(pause_s)
        if (found := find()) is not None:
            return found
        if isinstance(failure, urllib3.exceptions.ReadTimeoutError):  # the server may be creating it still
            break
    raise failure


def _refusal(host: str, error: Any) -> ClusterError:
    said = _said(error)
    if error.status == 401:
        return ClusterError(f"{host} wants to know who asks (401); {_SIGN_IN}")
    if error.status == 403:
        return ClusterError(f"{host} does not allow it (403{said}); ask for the right, or sign in: {_SIGN_IN}")
    if error.status in (500, *_PASSING):
        return ClusterAwayError(f"{host} is in trouble ({error.status}{said}); try again, or look at its pods")
    return ClusterError(f"{host} refuses a call ({error.status}{said})")


def _said(error: Any) -> str:
    """The message in the body of an error's answer, as the end of a line; empty if there is none."""
    try:
        content = json.loads(error.body or "")
        text = content.get("message") or content.get("error_message") or content.get("error") or ""
    except (ValueError, AttributeError):
        text = str(error.body or error.reason or "")
    text = " ".join(str(text).split())
    return f": {text[:300]}" if text else ""


def _no_answer(host: str, error: urllib3.exceptions.HTTPError) -> ClusterError:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, urllib3.exceptions.SSLError):
        return ClusterError(
            f"the certificate of {host} cannot be verified ({reason}); name its authority's file in SSL_CERT_FILE"
        )
    if isinstance(reason, urllib3.exceptions.ReadTimeoutError):
        why = f"in {TIMEOUT_S[1]} s"
    else:
        # urllib3's message begins with the connection object's repr; the reason stands after the last colon.
        why = f"({' '.join(str(reason).split()).rpartition(': ')[2]})"
    return ClusterAwayError(
        f"{host} does not answer {why}; check --host, and whether it can be reached, as by "
        "`kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80`"
    )
