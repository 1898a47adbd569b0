"""Where runs are kept: the sqlite file in mlruns/, or the team's MLflow server that MLFLOW_TRACKING_URI names."""

import fcntl
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from flows.environment import HOME

FILE = Path("mlruns/mlflow.db")
ADDRESS = "MLFLOW_TRACKING_URI"
"""Environment variable: the team's server, http(s)://. Without it runs are kept in FILE."""
PATIENCE_S = 10.0
_TRIES = 8
_AT_ONCE = ("UniqueViolation", "UNIQUE constraint", "StaleDataError", "DeadlockDetected", "SerializationFailure")


def uri() -> str:
    """The store's address. Raises ValueError if ADDRESS names anything but a server."""
    given = os.environ.get(ADDRESS, "")
    if not given:
        return f"sqlite:///{FILE.resolve()}"
    if not is_server(given):
        raise ValueError(
            f"{ADDRESS}={shown(given)}: not the http(s):// address of an MLflow server; a database is opened by the "
            "server alone (docs/team-server.md). Unset it to keep runs in mlruns/"
        )
    return given.rstrip("/")


def is_server(address: str) -> bool:
    """Whether runs are written over HTTP."""
    return urlsplit(address).scheme in ("http", "https")


def shown(address: str) -> str:
    """The address without a name or password in it."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def require_servers() -> None:
    """Raises ValueError, which says what to do, unless the team's servers that the environment names answer."""
    if is_server(uri()):
        _require(ADDRESS, uri(), "to keep runs in mlruns/")
    if os.environ.get("PREFECT_API_URL"):
        _require("PREFECT_API_URL", os.environ["PREFECT_API_URL"], "to start one here for each run")


def _require(variable: str, address: str, otherwise: str) -> None:
    try:
        with urllib.request.urlopen(shown(address).rstrip("/") + "/health", timeout=PATIENCE_S):  # noqa: S310 (the user's own)
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # it lives, and may want a login, which the client library sends
            return
        reason = f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise ValueError(
        f"{variable}={shown(address)}: no server answers there ({reason}); start it (docs/team-server.md), "
        f"correct the address, or unset {variable} {otherwise}"
    )


def connect(experiment: str) -> tuple[Any, str]:
    """MLflow's client and the id of the experiment, which is made if it is not there.

    Raises ValueError if the server does not answer or turns us away.
    """
    address = uri()
    if is_server(address):
        require_servers()
    else:
        FILE.parent.mkdir(exist_ok=True)
    with _only_one():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if not is_server(address) and not FILE.is_file():
            _make(MlflowClient)
        client = MlflowClient(address, registry_uri=address)
        try:
            return client, _experiment(client, experiment, None if is_server(address) else _files())
        except MlflowException as error:
            if not is_server(address):
                raise
            text = f"MLflow's server at {shown(address)} did not give its experiments: {_advice(error)}"
            raise ValueError(text) from error


def insist(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """`call`, again where MLflow's server failed it because another run entered the same row at that moment."""
    from mlflow.exceptions import MlflowException

    for left in reversed(range(_TRIES)):
        try:
            return call(*arguments, **named)
        except MlflowException as error:
            if not left or not any(word in str(error) for word in _AT_ONCE):
                raise
            time.sleep(random.uniform(0.1, 0.5))  # noqa: S311 (apart from the others)
    raise AssertionError("the last try returns or raises")


def _make(client: Any) -> None:
    """The tables, in one step: a process that is killed while MLflow makes them leaves a file that nothing can read."""
    begun = FILE.with_name("mlflow.db.begun")
    begun.unlink(missing_ok=True)
    client(f"sqlite:///{begun.resolve()}").search_experiments(max_results=1)
    begun.replace(FILE)


def _experiment(client: Any, name: str, files: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=files)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:  # a colleague was first
                raise
    if found.lifecycle_stage != "active":
        back = f"mlflow experiments restore -x {found.experiment_id}"
        raise ValueError(f"MLflow's experiment {name} is deleted; bring it back: `{back}`")
    return found.experiment_id


def _files() -> str:
    return (FILE.parent / "artifacts").resolve().as_uri()


def _advice(error: Exception) -> str:
    text = str(error)
    if "Invalid Host header" in text:
        return "it does not know the name that you call it by; add the name to FEWSTEP_MLFLOW_HOSTS where it runs"
    if any(code in text for code in ("401", "403")):
        return f"{text}; it wants a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return text


@contextmanager
def _only_one() -> Iterator[None]:
    """Two processes that make a fresh sqlite store at once break it."""
    with (HOME / "mlflow.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
