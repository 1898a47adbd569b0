"""Before any work on a cluster that is not ours: has it what was asked for, and can each of its nodes do the work?"""

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.project.nodes import Params
from flows.project.resources import Compute
from flows.project.storage import Storage
from flows.runtime import source
from flows.runtime.environment import HOME
from flows.runtime.errors import Passing
from flows.workers.capacity import require

if TYPE_CHECKING:
    from ray import ObjectRef

JOIN_S = 60.0
"""How long nodes that are announced may take to come."""
PROBE_S = 120.0
"""How long a node may take to start a worker and answer."""
_LOOK_S = 1.0
_PACKAGES = ("flows/runtime", "flows/project", "flows/telemetry", "flows/workers")
"""Of flows, what workers import."""


def check(content: Params, stages: Iterable[str]) -> None:
    """ValueError, a line a fault, if the cluster cannot run `stages`; nothing to do for a Ray of our own.

    Passing where nodes that it should have are not there.
    """
    compute = Compute.of(content)
    if compute.backend != "address":
        return
    _await_nodes(compute)
    require(compute, stages)
    token = HOME / f"token-{uuid.uuid4().hex}"
    token.write_text("seen", encoding="utf-8")
    try:
        _check_nodes(_facts(content, token))
    finally:
        token.unlink(missing_ok=True)


def _await_nodes(compute: Compute) -> None:
    import ray

    end, wanted = time.monotonic() + JOIN_S, compute.nodes or 1
    while len(alive := [node for node in ray.nodes() if node["Alive"]]) < wanted:
        if time.monotonic() > end:
            raise Passing(
                f"compute.nodes={wanted}: the Ray at {compute.address} has {len(alive)} after {JOIN_S:g} s; start more "
                "(`ray start --address ...`), or lower it"
            )
        time.sleep(_LOOK_S)


def _facts(content: Params, token: Path) -> dict[str, Any]:
    """What the driver is, for nodes to compare themselves with."""
    import ray

    store = Storage.of(content)
    return {
        "code": code(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "ray": ray.__version__,
        "token": None if store.root else str(token.resolve()),
        "store": store.root,
        "prefect": os.environ.get("PREFECT_API_URL"),
    }


def code() -> str:
    """sha256 of the source of `stages` and of what workers import of `flows`."""
    return source.digest("stages", *_PACKAGES)


def _check_nodes(facts: Mapping[str, Any]) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    probe = ray.remote(num_cpus=0, max_retries=0)(_probe())
    for node in ray.nodes():
        if node["Alive"]:
            where = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            asked[probe.options(scheduling_strategy=where).remote(dict(facts))] = node
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_S)
    faults = []
    for answer, node in asked.items():
        name = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"
        fault = _fault(answer, facts) if answer in done else f"started no worker within {PROBE_S:g} s; see its logs"
        if fault:
            faults.append(f"{name}: {fault}")
    if faults:
        raise ValueError("\n".join(faults))


def _fault(answer: "ObjectRef[dict[str, Any]]", facts: Mapping[str, Any]) -> str | None:
    """What is wrong with the node that gave `answer`."""
    import ray.exceptions

    try:
        found = ray.get(answer, timeout=5)
    except ray.exceptions.RayError as error:
        return f"its worker failed: {str(error).strip().splitlines()[-1]}"
    return next(_faults(found, facts), None)


def _faults(found: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    install = "install the same commit or wheel there, and start its Ray anew"
    if "absent" in found:
        yield f"cannot import the package ({found['absent']}); {install}"
        return
    for kind in ("python", "ray"):
        if found[kind] != facts[kind]:
            yield f"has {kind} {found[kind]}, this process {facts[kind]}; {install}"
    if found["code"] != facts["code"]:
        yield f"a worker with another version of the code ({found['where']}); {install}"
    if facts["token"] and not found["token"]:
        yield (
            f"does not see the folder {Path(facts['token']).parents[1]}; put the project on a folder that all nodes "
            "share at the same path, or use storage=s3"
        )
    if found["store"]:
        yield found["store"]
    if found["prefect"]:
        yield (
            f"does not reach the Prefect server at {facts['prefect']} ({found['prefect']}); set PREFECT_API_URL to one "
            "that every node reaches"
        )


def _probe() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that travels whole, so that a node without the package can say so."""

    def probe(facts: dict[str, Any]) -> dict[str, Any]:
        import platform
        import urllib.request
        from pathlib import Path

        try:
            import ray

            from flows.workers import checks  # noqa: PLW0406 (on a node, the node's own)
            from stages.io.storage import Store
        except ImportError as error:
            return {"absent": str(error)}
        found: dict[str, Any] = {"python": ".".join(platform.python_version_tuple()[:2]), "ray": ray.__version__}
        found |= {"code": checks.code(), "where": str(Path(checks.__file__).parents[2]), "store": "", "prefect": ""}
        found["token"] = bool(facts["token"]) and Path(facts["token"]).is_file()
        if facts["store"]:
            try:
                Store(facts["store"]).require()
            except ValueError as error:
                found["store"] = str(error)
        if facts["prefect"]:
            try:
                urllib.request.urlopen(f"{facts['prefect']}/health", timeout=10).close()  # noqa: S310
            except OSError as error:
                found["prefect"] = str(error)
        return found

    return probe
