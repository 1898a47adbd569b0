"""Whether the Ray that this process has joined can hold what a stage asks for, said before any work."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flows.project.resources import Compute
from flows.workers import encoders, reward_workers
from flows.workers.connection import check_alive


@dataclass(frozen=True)
class _Ask:
    """Equal workers of one unit."""

    who: str
    count: int
    key: str
    """The parameter that says how many."""
    needs: Mapping[str, float]
    """Of each."""
    keys: Mapping[str, str]
    """Resource -> the parameter that says how much of it."""


def require(compute: Compute, stages: Iterable[str]) -> None:
    """ValueError if no node could hold one worker of each of `stages`, or all nodes together not those of one unit."""
    import ray

    check_alive()
    address = ray.get_runtime_context().gcs_address
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for stage in sorted(set(stages)):
        asks = list(_asks(compute, stage))
        for ask in asks:
            _require_node(ask, nodes, address)
        _require_all(asks, nodes, address)


def _asks(compute: Compute, stage: str) -> Iterator[_Ask]:
    count = compute.workers_of(stage)
    keys = {name: f"compute.resources.{stage}.{name}" for name in compute.resources.get(stage, {})}
    keys |= {"CPU": "compute.cpus", "GPU": "compute.gpus"}
    yield _Ask(f"task of {stage}", count, f"compute.workers.{stage}", compute.needs(stage), keys)
    for bench in (reward_workers.bench(compute, stage), encoders.bench(compute, stage)):
        if bench.count:
            keys = {name: f"{bench.key}.resources.{name}" for name in bench.needs}
            keys |= {"CPU": f"{bench.key}.cpus", "GPU": f"{bench.key}.gpus"}
            yield _Ask(f"{bench.who} of {stage}", bench.count, f"{bench.key}.workers", bench.needs, keys)


def _require_node(ask: _Ask, nodes: Sequence[Mapping[str, float]], address: str) -> None:
    if any(all(node.get(name, 0.0) >= amount for name, amount in ask.needs.items()) for node in nodes):
        return
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ask.needs}
    name = next((name for name in ask.needs if most[name] < ask.needs[name]), "CPU")
    words = f"has {most[name]:g} on its largest node" if most[name] < ask.needs[name] else "has no node with all of it"
    asked = ", ".join(f"{amount:g} {kind}" for kind, amount in ask.needs.items() if amount)
    raise ValueError(
        f"{ask.keys[name]}: a {ask.who} asks for {asked}, the Ray at {address} {words}; lower it in "
        "params/compute/, or join a larger cluster"
    )


def _require_all(asks: Sequence[_Ask], nodes: Sequence[Mapping[str, float]], address: str) -> None:
    wanted = Counter[str]()
    for ask in asks:
        for name, amount in ask.needs.items():
            wanted[name] += ask.count * amount  # type: ignore[assignment] (fractions of a GPU)
            have = sum(node.get(name, 0.0) for node in nodes)
            if wanted[name] > have:
                beside = f" beside {asks[0].count} of its tasks" if ask is not asks[0] else ""
                raise ValueError(
                    f"{ask.key}: {ask.count} workers{beside} ask for {wanted[name]:g} {name}, the Ray at {address} has "
                    f"{have:g}; lower it in params/compute/, or join a larger cluster"
                )
