"""Where runs are kept: the sqlite file in mlruns/, or the team's MLflow server that MLFLOW_TRACKING_URI names."""

import importlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from flows.runtime import addresses, locks
from flows.runtime.environment import HOME
from flows.runtime.errors import Passing
from flows.tracking import places

FILE = Path("mlruns/mlflow.db")
_TRIES = 8
_AT_ONCE = ("UniqueViolation", "UNIQUE constraint", "StaleDataError", "DeadlockDetected", "SerializationFailure")
"""Words by which a server tells that two wrote at once: over HTTP MLflow passes its database's errors on as prose."""
_STRANGER = "Invalid Host header"
"""Words by which a server tells that it refuses the name it was called by, and not the caller: both are 403."""
_LATER = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED")
_LOGIN = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")
_PAGE = 1000


class Store(NamedTuple):
    """MLflow's client, and the id of the experiment."""

    client: Any
    experiment: str


def uri() -> str:
    """The store's address. Raises ValueError if ADDRESS names anything but a server."""
    return addresses.team_mlflow() or f"sqlite:///{FILE.resolve()}"


def connect(experiment: str) -> Store:
    """For those who write: tables and experiment are made if they are not there.

    Raises Passing if the team's server does not answer, ValueError if it turns us away.
    """
    make_tables()
    client = _client()
    with locks.exclusive(HOME / "mlflow.lock"), speaking():
        return Store(client, _experiment(client, experiment, None if addresses.is_server(uri()) else _files()))


def import_ahead() -> None:
    """MLflow takes two seconds to import: in a thread, while others start what else is needed."""
    threading.Thread(target=importlib.import_module, args=("mlflow.tracking",)).start()


def look(experiment: str) -> Store | None:
    """For those who only read: makes nothing; None where nothing was ever tracked. Raises as `connect` does.

    It writes in one case alone: in a folder that was moved or copied, where else it would read from the first.
    """
    if not addresses.is_server(uri()):
        if not FILE.is_file():
            return None
        places.settle(FILE)
    client = _client()
    with speaking():
        found = client.get_experiment_by_name(experiment)
    return Store(client, _active(found)) if found else None


def make_tables() -> None:
    """Those of mlruns/, where it is the store and there are none. In one step: a process that is killed while MLflow
    makes them would leave a file that nothing can read.
    """
    if addresses.is_server(uri()):
        return
    FILE.parent.mkdir(exist_ok=True)
    with locks.exclusive(HOME / "mlflow.lock"):
        if FILE.is_file():
            places.settle(FILE)
            return
        from mlflow import MlflowClient

        begun = FILE.with_name("mlflow.db.begun")
        begun.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{begun.resolve()}").search_experiments(max_results=1)
        begun.replace(FILE)


def _client() -> Any:
    if addresses.is_server(uri()):
        addresses.require_servers()
    from mlflow import MlflowClient

    return MlflowClient(uri(), registry_uri=uri())


@contextmanager
def speaking() -> Iterator[None]:
    """Around questions to MLflow, as a decorator too: a server that is away is Passing, one that wants a login says so.

    What else MLflow raises is raised.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if not addresses.is_server(uri()):
            raise
        words = f"MLflow's server at {addresses.shown(uri())}"
        if _is_away(error):
            raise Passing(f"{words} does not answer ({error}); run it again once it does") from error
        if error.error_code in _LOGIN:
            raise ValueError(f"{words} turned us away: {_advice(error)}") from error
        raise


def _is_away(error: Any) -> bool:
    """Whether there was no answer, which MLflow tells by the HTTP library's error in its context, or one for now."""
    from requests.exceptions import RequestException

    return error.error_code in _LATER or isinstance(error.__context__, RequestException)


def is_missing(error: Any) -> bool:
    """Whether MLflow, which raised it, does not have what it was asked for."""
    return error.error_code == "RESOURCE_DOES_NOT_EXIST"


def every(search: Callable[..., Any], *arguments: Any, **named: Any) -> Iterator[Any]:
    """All that a search of MLflow's finds, page by page."""
    token = None
    while True:
        page = search(*arguments, max_results=_PAGE, page_token=token, **named)
        yield from page
        token = page.token
        if not token:
            return


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
    return _active(found)


def _active(found: Any) -> str:
    if found.lifecycle_stage != "active":
        back = f"mlflow experiments restore -x {found.experiment_id}"
        raise ValueError(f"MLflow's experiment {found.name} is deleted; bring it back: `{back}`")
    return found.experiment_id


def _files() -> str:
    return (FILE.parent / "artifacts").resolve().as_uri()


def _advice(error: Exception) -> str:
    if _STRANGER in str(error):
        return "it does not know the name that you call it by; add the name to FEWSTEP_MLFLOW_HOSTS where it runs"
    return f"{error}; it wants a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
