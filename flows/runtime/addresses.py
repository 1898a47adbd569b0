"""Where servers are: the environment variables that name them, and whether they answer."""

import os
import urllib.error
import urllib.request
from urllib.parse import urlsplit, urlunsplit

from flows.runtime.errors import Passing

RAY = "FEWSTEP_RAY_ADDRESS"
"""Environment variable: the Ray that the pipeline started, for its stages."""


MLFLOW = "MLFLOW_TRACKING_URI"
"""Environment variable: the team's MLflow server, http(s)://. Without it runs are kept in mlruns/."""
PREFECT = "PREFECT_API_URL"
"""Environment variable: the Prefect server's API, the team's or this project's own."""


PATIENCE_S = 10.0


def team_mlflow() -> str | None:
    """The team's MLflow server, if MLFLOW names one. Raises ValueError if it names anything but a server."""
    given = os.environ.get(MLFLOW, "")
    if given and not is_server(given):
        raise ValueError(
            f"{MLFLOW}={shown(given)}: not the http(s):// address of an MLflow server; a database is opened by the "
            "server alone (docs/team-server.md). Unset it to keep runs in mlruns/"
        )
    return given.rstrip("/") or None


def is_server(address: str) -> bool:
    """Whether runs are written over HTTP."""
    return urlsplit(address).scheme in ("http", "https")


def shown(address: str) -> str:
    """The address without a name or password in it."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def require_servers() -> None:
    """Raises Passing, which says what to do, unless the team's servers that the environment names answer."""
    tracking = team_mlflow()
    if tracking:
        _require(MLFLOW, tracking, "to keep runs in mlruns/")
    if os.environ.get(PREFECT):
        _require(PREFECT, os.environ[PREFECT], "to start one here for each run")


def _require(variable: str, address: str, otherwise: str) -> None:
    if not is_server(address):
        raise ValueError(f"{variable}={shown(address)}: not an http(s):// address; correct it, or unset it {otherwise}")
    try:
        with urllib.request.urlopen(shown(address).rstrip("/") + "/health", timeout=PATIENCE_S):  # noqa: S310 (the user's own)
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # it lives, and may want a login, which the client library sends
            return
        reason = f"HTTP {error.code}"
    except OSError as error:
        reason = str(getattr(error, "reason", error))
    raise Passing(
        f"{variable}={shown(address)}: no server answers there ({reason}); start it (docs/team-server.md), "
        f"correct the address, or unset {variable} {otherwise}"
    )
