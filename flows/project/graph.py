"""The pipeline as a graph of nodes, checked before any work starts."""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from flows.project.nodes import STAGES, Node, Params, arms


def nodes(params: Params) -> Mapping[Node, frozenset[Node]]:
    """Every node of the experiment -> the nodes it reads, in an order that DVC can run.

    Raises ValueError for an arm that names itself, a cycle, or an input that nothing makes.
    """
    missing = [stage for stage in STAGES if stage not in params]
    if missing:
        raise ValueError(f"params.yaml: no section {missing[0]!r}; write it anew with `fewstep compose`")
    known = [Node(stage) for stage, row in STAGES.items() if not row.arms] + list(arms(params))
    reads = {node: _reads(node, params, set(known)) for node in known}
    try:
        ordered = list(TopologicalSorter(reads).static_order())
    except CycleError as error:
        circle = " -> ".join(node.name for node in reversed(error.args[1]))
        raise ValueError(f"params.yaml: {circle}: these arms wait for each other; name another input for one") from None
    return {node: reads[node] for node in ordered}


def needed(targets: Iterable[str], params: Params) -> frozenset[Node]:
    """The nodes called `targets` and all that they are made from; without targets every node. ValueError if unknown."""
    order = nodes(params)
    wanted = {find(name, params) for name in targets} or set(order)
    for node in reversed(order):
        if node in wanted:
            wanted |= order[node]
    return frozenset(wanted)


def height(node: Node, params: Params) -> int:
    """How many nodes the longest chain holds that waits for `node`."""
    readers = [each for each, reads in nodes(params).items() if node in reads]
    return 1 + max((height(each, params) for each in readers), default=0)


def _reads(node: Node, params: Params, known: set[Node]) -> frozenset[Node]:
    found = set()
    for name, folder in _inputs(node, params).items():
        where = f"{node.stage}.arms.{node.arm}.{name}" if node.arm else f"{node.stage}: input {name}"
        try:
            maker = Node.of_folder(folder)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if maker == node:
            raise ValueError(f"{where}={folder}: the arm names itself; name what it starts from, such as data/teacher")
        if maker not in known:
            choices = ", ".join(sorted(each.folder for each in known if each != node and each.stage != "evaluate"))
            raise ValueError(f"{where}={folder}: no such artefact in this experiment; valid: {choices}")
        found.add(maker)
    return frozenset(found)


def _inputs(node: Node, params: Params) -> Mapping[str, str]:
    try:
        return STAGES[node.stage].inputs(params, node.arm)
    except KeyError as error:
        raise ValueError(f"{node.stage}.arms.{node.arm}.{error.args[0]}: missing; name an artefact's folder") from None


def find(name: str, params: Params) -> Node:
    """The node called `name`; ValueError lists the valid names."""
    node = Node.parse(name)
    if node.arm is not None and node.arm not in params[node.stage]["arms"]:
        valid = ", ".join(params[node.stage]["arms"]) or "none"
        raise ValueError(f"{node.stage}.arms.{node.arm}: no such arm in params.yaml; valid: {valid}")
    return node
