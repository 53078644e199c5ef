"""Whether an address is that of an MLflow server: one question, answered within seconds and in a sentence."""

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from engine.encoding import read_json

PATIENCE = 5.0  # seconds for the whole answer, and as many for the connection
_QUESTION = "/api/2.0/mlflow/experiments/search"
_KNOWN = {"experiments", "next_page_token", "error_code"}  # of what MLflow answers
_LARGEST = 1 << 20  # bytes of an answer


def problem(uri: str, seconds: float = PATIENCE, environment: Mapping[str, str] = os.environ) -> str:
    """What is wrong with a server at http://... or https://...; "" if it is MLflow and takes us.

    Name and password, token and certificates come from where MLflow itself takes them. Whoever sends his headers byte by byte, or
    whose name is not found, is left to a thread.
    """
    answer = Future[str]()

    def ask() -> None:
        answer.set_result(_asked(uri, seconds, environment))

    threading.Thread(target=ask, name="mlflow", daemon=True).start()
    try:
        return answer.result(2 * seconds)
    except TimeoutError:
        return f"what listens there does not answer within {seconds:g} s"


def _asked(uri: str, seconds: float, environment: Mapping[str, str]) -> str:
    name = environment.get("MLFLOW_TRACKING_USERNAME")
    both = f"{name}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
    token, headers = environment.get("MLFLOW_TRACKING_TOKEN"), {}
    auth: Any = requests.auth.HTTPBasicAuth(*both.split(b":", 1)) if name is not None else None
    if auth is None and token is not None:
        headers["Authorization"] = f"Bearer {token}"
    insecure = environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    verify: Any = False if insecure else environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH", True)
    try:
        with requests.post(
            uri.rstrip("/") + _QUESTION,
            json={"max_results": 1},
            headers=headers,
            auth=auth,
            verify=verify,
            timeout=seconds,
            stream=True,
            allow_redirects=False,
        ) as response:
            return _meaning(response, seconds)
    except requests.exceptions.SSLError:
        return "its certificate is not trusted; MLFLOW_TRACKING_SERVER_CERT_PATH names a file with its authority"
    except requests.exceptions.ConnectTimeout:
        return f"no connection within {seconds:g} s"
    except requests.exceptions.Timeout:
        return f"what listens there does not answer within {seconds:g} s"
    except requests.exceptions.ConnectionError as error:
        return "Connection refused" if "refused" in str(error) else "no connection, or one that breaks"
    except (requests.exceptions.RequestException, HTTPError, OSError, ValueError):
        return "what listens there is no MLflow"


def _meaning(response: requests.Response, seconds: float) -> str:
    status = f"HTTP {response.status_code} {response.reason or ''}".strip()
    if response.status_code in (401, 403):
        return f"it wants a name and a password, in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: {status}"
    if response.status_code >= 500:
        return status
    if response.is_redirect:
        # the client would go there without what it has to say
        to = urlsplit(response.headers["Location"])
        where = f" to {to.scheme}://{to.netloc.rpartition('@')[2]}" if to.scheme and to.netloc else ""
        return f"it sends everybody on{where}, which would have to be the address: {status}"
    until, body = time.monotonic() + seconds, bytearray()
    while part := response.raw.read1(65536, decode_content=True):
        body += part
        if time.monotonic() > until or len(body) > _LARGEST:
            return "what listens there is no MLflow"
    try:
        answer = read_json(body.decode("utf-8", "replace"))
    except ValueError:
        answer = None
    # a server without any experiment that we may see answers {}
    if isinstance(answer, dict) and answer.keys() <= _KNOWN | {"message"} and (answer or response.ok):
        return ""
    return f"what listens there is no MLflow: {status}"
