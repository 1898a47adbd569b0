"""Local servers: Prefect, Ray and the MLflow UI, on loopback, started side by side and stopped by whom started them.

Starts of one person's servers queue, over all projects on the machine: each takes both cores of a laptop for some
seconds, and Ray gives its own processes 15 to 30 s to come up, which no setting changes (ray-project/ray#65983).
"""

import json
import os
import platform
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from flows.project.resources import Compute
from flows.runtime import addresses, locks, logs, processes
from flows.runtime.addresses import RAY
from flows.runtime.environment import HOME
from flows.runtime.errors import PASSING, Passing, told
from flows.servers import authority, service
from flows.servers.service import FOLDER, Service

HOST = "127.0.0.1"
PORTS = {"prefect": 4200, "mlflow": 5000}
PATIENCE_S, QUEUE_S = 300.0, 900.0
"""For a server to answer, and for others' starts to be over."""
LEAVING_S = 30.0
"""For the servers of a run that is over to be gone."""
TRIES = 6
"""Starts of a server whose own processes did not come up in time: as many of Ray's as there is patience for."""
_LOOK_S = 0.05
_KEPT, _SHOWN = 5, 6
"""Logs of earlier starts, and lines of a failed one's that are shown."""


@dataclass(frozen=True)
class Server:
    """One that is to be started."""

    name: str
    command: Sequence[str]
    ready: Callable[[], str | None]
    """Its address once it answers."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """What it says."""
        return HOME / "logs" / f"{self.name}.log"

    def launch(self, leashed: bool) -> Popen[str]:
        """Its process; logs of earlier ones stay."""
        logs.begin(self.log, _KEPT)
        given = {"log": self.log, "environment": self.environment, "own_session": True}
        return processes.launch(self.command, leashed=leashed, **given)


def start(
    names: Sequence[str], compute: Compute, *, ports: Mapping[str, int | None], leashed: bool
) -> tuple[list[Service], list[Service]]:
    """Start those of `names` that do not run, all at once, and wait for each to answer: those that ran, and the rest.

    `leashed` ties their lives to this thread's. Raises ValueError where a port is taken or a server dies, Passing where
    it takes too long.
    """
    found = _found(names)
    if len(found) == len(names):
        return found, []
    with _queue():
        found = _found(names)
        there = {each.name: each.address for each in found}
        return found, _start(_servers([name for name in names if name not in there], compute, ports, there), leashed)


def _found(names: Sequence[str]) -> list[Service]:
    return [each for each in map(service.running, names) if each and not each.leashed]


@contextmanager
def _queue() -> Iterator[None]:
    file = Path(tempfile.gettempdir()) / f"fewstep-{os.getuid()}.starts"
    try:
        with locks.exclusive(file, QUEUE_S):
            yield
    except TimeoutError as error:
        raise Passing(f"servers of other projects were still being started ({error}); run it again") from None


def _start(servers: Sequence[Server], leashed: bool) -> list[Service]:
    begun: list[_Starting] = []
    try:
        for server in servers:
            begun.append(_Starting(server, leashed))
        return [each.wait() for each in begun]
    except BaseException:  # an interrupt too must not leave servers behind
        for each in begun:
            each.end()
        raise


class _Starting:
    """A server until it answers."""

    def __init__(self, server: Server, leashed: bool) -> None:
        self._server, self._leashed = server, leashed
        self._process = server.launch(leashed)

    def wait(self) -> Service:
        """Once it answers, it is written down."""
        end, tries = time.monotonic() + PATIENCE_S, TRIES
        while time.monotonic() < end:
            code = self._process.poll()
            if code == PASSING and tries > 1:
                tries -= 1
                self._process = self._server.launch(self._leashed)
            elif code is not None:
                raise self._fault(f"ended with code {code}", code == PASSING or bool(self._server.ready()))
            address = self._server.ready()
            if address and self._listens(address):
                made = Service.of(self._server.name, self._process.pid, address, leashed=self._leashed)
                made.write()
                return made
            time.sleep(_LOOK_S)
        raise self._fault(f"no answer within {PATIENCE_S:g} s", True)

    def _listens(self, address: str) -> bool:
        """Whether it is this server that answers: another program may have been faster at a port that was free."""
        port = int(address.rpartition(":")[2]) if self._server.name in PORTS else None
        return port is None or port in processes.ports(self._process.pid)

    def _fault(self, what: str, passing: bool) -> Exception:
        log = self._server.log
        words = "".join(f"\n{self._server.name}.log: {line}" for line in logs.last_words(log, _SHOWN))
        return told(f"{self._server.name}: did not start ({what}); its log is {log}{words}", passing=passing)

    def end(self) -> None:
        """End it, and nobody finds it any more."""
        processes.end(self._process, patience_s=5.0)
        made = service.read(self._server.name)
        if made and made.pid == self._process.pid:
            made.forget()


@contextmanager
def session(compute: Compute) -> Iterator[dict[str, str]]:
    """Addresses of Prefect and Ray: from the environment, of those that run, or started here and stopped after."""
    addresses.require_servers()
    wanted = [] if os.environ.get(addresses.PREFECT) else ["prefect"]
    if compute.backend == "local" and not os.environ.get(RAY):
        wanted.append("ray")
    found, started = start(wanted, compute, ports={}, leashed=True)
    at = {each.name: each.address for each in (*found, *started)}
    given: dict[str, str] = {}
    if "prefect" in at:
        given[addresses.PREFECT] = at["prefect"] + "/api"
        if compute.backend == "local":  # nodes elsewhere are told the same, and have no such file
            given |= authority.only_one()
    if "ray" in at:
        given[RAY] = at["ray"]
    os.environ.update(given)
    try:
        yield {
            "prefect": os.environ[addresses.PREFECT],
            "ray": os.environ[RAY] if compute.backend == "local" else str(compute.address),
        }
    finally:
        for name in given:
            os.environ.pop(name, None)
        for each in started:
            each.stop()


def _servers(
    names: Sequence[str], compute: Compute, ports: Mapping[str, int | None], there: Mapping[str, str]
) -> list[Server]:
    """What is to be started, beside what is `there`: name -> address."""
    at = {name: f"http://{HOST}:{_port(name, ports.get(name))}" for name in names if name in PORTS}
    makers = {
        "prefect": lambda: _prefect(at["prefect"]),
        "mlflow": lambda: _mlflow(at["mlflow"]),
        "ray": lambda: _ray(compute, (dict(there) | at).get("prefect")),
        "worker": _worker,
    }
    return [makers[name]() for name in names]


def _prefect(address: str) -> Server:
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", port]
    said = {"PREFECT_SERVER_LOGGING_LEVEL": "WARNING", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"}
    said |= {"PREFECT_SERVER_UI_API_URL": f"{address}/api"}  # else pages ask port 4200, whatever the server's
    return Server("prefect", command, lambda: address if _answers(f"{address}/api/health") else None, said)


def _mlflow(address: str) -> Server:
    port = address.rpartition(":")[2]
    store = f"sqlite:///{Path('mlruns/mlflow.db').resolve()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", port, "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(Path("mlruns/artifacts").resolve())]
    return Server("mlflow", command, lambda: address if _answers(f"{address}/health") else None)


def _ray(compute: Compute, prefect: str | None) -> Server:
    """Its workers inherit the head's environment, so that must name the Prefect server which starts beside it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    where = FOLDER / "ray.address.json"
    where.unlink(missing_ok=True)
    command = [sys.executable, "-m", "flows.servers.ray_head", str(compute.local_cpus()), str(where)]
    known = {}
    if prefect and not os.environ.get(addresses.PREFECT):
        known = {addresses.PREFECT: f"{prefect}/api", **authority.only_one()}
    return Server("ray", command, lambda: _read_address(where), known)


def _worker() -> Server:
    """It takes one run at a time: a run uses the machine, and runs of one project share unfinished work."""
    name = f"{platform.node()}-{os.getpid()}"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "fewstep", "--type", "process"]
    command += ["--name", name, "--limit", "1", "--install-policy", "never"]
    asks = {"PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "5")}
    address = os.environ[addresses.PREFECT].removesuffix("/api")
    return Server("worker", command, lambda: address if _works(name) else None, asks)


def _works(name: str) -> bool:
    """Whether Prefect's server has heard of the worker."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return any(worker.name == name for worker in client.read_workers_for_work_pool("fewstep"))


def _port(name: str, port: int | None) -> int:
    """`port` if it is asked for, which must then be free; else the usual one, or any free one.

    A server that this project had for one run may still be ending there.
    """
    end = time.monotonic() + LEAVING_S
    while port and not is_free(port) and _is_leashed(name) and time.monotonic() < end:
        time.sleep(_LOOK_S)
    if is_free(port or PORTS[name]):
        return port or PORTS[name]
    if port:
        raise ValueError(
            f"port {port} is taken, {name} cannot listen there; stop what uses it, or choose another: "
            f"`fewstep up --{name}-port <number>`"
        )
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_leashed(name: str) -> bool:
    found = service.running(name)
    return found is not None and found.leashed


def is_free(port: int) -> bool:
    """Whether a server could listen on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310 (our own loopback address)
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _read_address(file: Path) -> str | None:
    return json.loads(file.read_text(encoding="utf-8"))["address"] if file.is_file() else None
