"""Local servers: Prefect, Ray and the MLflow UI, on loopback, started side by side and stopped by whom started them."""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from flows.project.resources import Compute
from flows.runtime import addresses, processes
from flows.runtime.addresses import RAY
from flows.runtime.environment import HOME
from flows.runtime.leash import die_with_parent
from stages.io.artefacts import write_json

FOLDER = HOME / "services"
HOST = "127.0.0.1"
PORTS = {"prefect": 4200, "mlflow": 5000}
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Service:
    """A server that runs on this machine."""

    name: str
    pid: int
    born: float
    """The process's start, in seconds since 1970: a later process with the same pid is another one."""
    address: str

    @property
    def state(self) -> Path:
        """Where it is written down."""
        return FOLDER / f"{self.name}.json"

    def alive(self) -> bool:
        """Whether that very process still runs."""
        return processes.lives(self.pid, self.born)

    def stop(self) -> None:
        """End it and all that it started: politely, then not."""
        groups = {self.pid} | {child.pid for child in processes.descendants(self.pid)}
        polite = 60.0 if self.name == "worker" else 5.0  # its runs end theirs first
        for sign, patience in ((signal.SIGTERM, polite), (signal.SIGKILL, 2.0)):
            processes.send(self.pid, sign)
            _, groups_left = psutil.wait_procs([p for p in map(processes.find, groups) if p], timeout=patience)
            groups = {process.pid for process in groups_left}
            if not groups:
                break
            for pid in groups:
                processes.send(pid, sign)
        self.state.unlink(missing_ok=True)


def running(name: str) -> Service | None:
    """The service called `name`, if it runs."""
    try:
        service = Service(**json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None
    return service if service.alive() else None


@dataclass
class _Starting:
    name: str
    process: subprocess.Popen[bytes]
    ready: Callable[[], str | None]
    """Its address once it answers."""
    log: Path


def start(names: Sequence[str], compute: Compute, *, ports: dict[str, int | None], leashed: bool) -> list[Service]:
    """Start those of `names` that do not run, all at once, and wait for each to answer.

    `leashed` ties their lives to this process's. Raises ValueError where a port is taken or a server dies.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = [service for service in map(running, names) if service]
    makers = {"prefect": _prefect, "mlflow": _mlflow, "ray": _ray, "worker": _worker}
    waiting: list[_Starting] = []
    # Ray's workers inherit the head's environment, so the head must know the Prefect server that starts beside it.
    names = sorted(names, key=list(makers).index)
    started: list[Service] = []
    try:
        for name in names:
            if name not in {service.name for service in found}:
                waiting.append(makers[name](compute, ports.get(name), leashed))
        for each in waiting:
            started.append(_await(each))
    except BaseException:  # an interrupt too must not leave servers behind
        for each in waiting:
            Service(each.name, each.process.pid, processes.born(each.process.pid), "").stop()
        raise
    return found + started


@contextmanager
def session(compute: Compute) -> Iterator[dict[str, str]]:
    """Addresses of Prefect and Ray: from the environment, of those that run, or started here and stopped after."""
    addresses.require_servers()
    wanted = [] if os.environ.get("PREFECT_API_URL") else ["prefect"]
    if compute.backend == "local" and not os.environ.get(RAY):
        wanted.append("ray")
    before = {name for name in wanted if running(name)}
    services = {s.name: s for s in start(wanted, compute, ports={}, leashed=True)}
    given = {}
    if "prefect" in services:
        given["PREFECT_API_URL"] = services["prefect"].address + "/api"
    if "ray" in services:
        given[RAY] = services["ray"].address
    os.environ.update(given)
    try:
        yield {
            "prefect": os.environ["PREFECT_API_URL"],
            "ray": compute.address if compute.backend == "address" else os.environ[RAY],
        }
    finally:
        for name in given:
            os.environ.pop(name, None)
        for name, service in services.items():
            if name not in before:
                service.stop()


def _prefect(_compute: Compute, port: int | None, leashed: bool) -> _Starting:
    chosen = _port("prefect", port)
    address = f"http://{HOST}:{chosen}"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(chosen)]
    extra = {"PREFECT_SERVER_LOGGING_LEVEL": "WARNING", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"}
    extra |= {"PREFECT_SERVER_UI_API_URL": f"{address}/api"}  # else pages ask port 4200, whatever the server's
    process, log = _spawn("prefect", command, leashed, extra)
    write_json(FOLDER / "prefect.json", asdict(Service("prefect", process.pid, processes.born(process.pid), address)))
    return _Starting("prefect", process, lambda: address if _answers(f"{address}/api/health") else None, log)


def _mlflow(_compute: Compute, port: int | None, leashed: bool) -> _Starting:
    chosen = _port("mlflow", port)
    address = f"http://{HOST}:{chosen}"
    store = f"sqlite:///{Path('mlruns/mlflow.db').resolve()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(chosen), "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(Path("mlruns/artifacts").resolve())]
    process, log = _spawn("mlflow", command, leashed, {})
    return _Starting("mlflow", process, lambda: address if _answers(f"{address}/health") else None, log)


def _ray(compute: Compute, _port_unused: int | None, leashed: bool) -> _Starting:
    where = FOLDER / "ray.address.json"
    where.unlink(missing_ok=True)
    command = [sys.executable, "-m", "flows.servers.ray_head", str(compute.local_cpus()), str(where)]
    prefect = running("prefect")
    known = {} if os.environ.get("PREFECT_API_URL") or not prefect else {"PREFECT_API_URL": prefect.address + "/api"}
    process, log = _spawn("ray", command, leashed, known)
    return _Starting("ray", process, lambda: _read_address(where), log)


def _worker(_compute: Compute, _port_unused: int | None, leashed: bool) -> _Starting:
    """It takes one run at a time: a run uses the machine, and runs of one project share unfinished work."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "fewstep", "--type", "process"]
    command += ["--name", f"{platform.node()}-{os.getpid()}", "--limit", "1", "--install-policy", "never"]
    extra = {"PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "5")}
    process, log = _spawn("worker", command, leashed, extra)
    address = os.environ["PREFECT_API_URL"].removesuffix("/api")
    return _Starting("worker", process, lambda: address if b"started!" in log.read_bytes() else None, log)


def _spawn(name: str, command: list[str], leashed: bool, extra: dict[str, str]) -> tuple[subprocess.Popen[bytes], Path]:
    log = HOME / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | extra,
            preexec_fn=die_with_parent if leashed else None,  # noqa: PLW1509 (one prctl call, no locks)
        )
    return process, log


def _await(starting: _Starting) -> Service:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if starting.process.poll() is not None:
            break
        address = starting.ready()
        if address:
            pid = starting.process.pid
            service = Service(starting.name, pid, processes.born(pid), address)
            write_json(service.state, asdict(service))
            return service
        time.sleep(0.05)
    tail = starting.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    raise ValueError(f"{starting.name}: did not start ({' '.join(tail) or 'no message'}); its log is {starting.log}")


def _port(name: str, port: int | None) -> int:
    """`port` if it is asked for, which must then be free; else the usual one, or any free one."""
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
