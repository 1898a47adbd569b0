"""Where runs are kept: the sqlite file in mlruns/, or the team's MLflow server that MLFLOW_TRACKING_URI names."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.runtime import addresses, locks
from flows.runtime.environment import HOME

FILE = Path("mlruns/mlflow.db")
_TRIES = 8
_AT_ONCE = ("UniqueViolation", "UNIQUE constraint", "StaleDataError", "DeadlockDetected", "SerializationFailure")


def uri() -> str:
    """The store's address. Raises ValueError if ADDRESS names anything but a server."""
    return addresses.team_mlflow() or f"sqlite:///{FILE.resolve()}"


def connect(experiment: str) -> tuple[Any, str]:
    """MLflow's client and the id of the experiment, which is made if it is not there.

    Raises ValueError if the server does not answer or turns us away.
    """
    address = uri()
    if addresses.is_server(address):
        addresses.require_servers()
    else:
        FILE.parent.mkdir(exist_ok=True)
    with locks.exclusive(HOME / "mlflow.lock"):  # two processes that make a fresh sqlite store at once break it
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if not addresses.is_server(address) and not FILE.is_file():
            _make(MlflowClient)
        client = MlflowClient(address, registry_uri=address)
        try:
            return client, _experiment(client, experiment, None if addresses.is_server(address) else _files())
        except MlflowException as error:
            if not addresses.is_server(address):
                raise
            text = f"MLflow's server at {addresses.shown(address)} did not give its experiments: {_advice(error)}"
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
