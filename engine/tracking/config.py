"""Settings of tracking."""

import urllib.parse
from typing import Literal

from pydantic import Field

from engine.settings import Section


class TrackingConfig(Section):
    """Where curves and scores go."""

    backend: Literal["mlflow", "none"] = Field("mlflow", description="an MLflow store, or nothing")
    uri: str | None = Field(None, description="MLflow store; null: mlflow.db beside the runs")
    experiment: str = Field("pulseledger", min_length=1, description="name of the MLflow experiment")
    models: Literal["best", "conditions", "none"] = Field(
        "best", description="studies: log the global model of the best trial, of the best of each condition, or none"
    )


def has_password(address: str) -> bool:
    """Whether an address such as scheme://USER:PASSWORD@HOST holds a password, there or among its parameters.

    In that of a web server whatever stands there may be one: a token goes as a user without a password, or as a parameter.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.scheme in ("http", "https") and (parts.username is not None or parts.query):
        return True
    return bool(parts.password) or not {"password", "sslpassword"}.isdisjoint(urllib.parse.parse_qs(parts.query))
