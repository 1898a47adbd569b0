"""The pipeline as a graph of nodes, checked before any work starts."""

from collections.abc import Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from flows.project.nodes import STAGES, Node, Params, trainings
from stages.core.messages import at, join, listed, shown, together
from stages.io import replicates


def nodes(params: Params) -> dict[Node, frozenset[Node]]:
    """Every node of the experiment -> the nodes it reads, in an order that DVC can run.

    Raises ValueError, a line a fault, for an arm that names itself, an input that nothing makes, or a cycle.
    """
    known = [Node(stage) for stage, row in STAGES.items() if not row.arms] + list(trainings(params))
    found = together(*(lambda node=node: _reads(node, params, set(known)) for node in known))
    reads = dict(zip(known, found, strict=True))
    faults = list(dict.fromkeys(replicates.faults(params)))
    if faults:
        raise ValueError("\n".join(faults))
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


def heights(reads: Mapping[Node, frozenset[Node]]) -> dict[Node, int]:
    """Of each of `nodes`: how many nodes the longest chain holds that waits for it."""
    found: dict[Node, int] = {}
    for node in reversed(list(reads)):
        found[node] = 1 + max((found[each] for each in found if node in reads[each]), default=0)
    return found


def breadth(reads: Mapping[Node, frozenset[Node]], some: Collection[Node]) -> int:
    """The most of `some` that can be made side by side, if each is made as soon as those of them that it reads are."""
    rounds = TopologicalSorter({node: [each for each in reads[node] if each in some] for node in some})
    rounds.prepare()
    most = 0
    while rounds.is_active():
        ready = rounds.get_ready()
        most = max(most, len(ready))
        rounds.done(*ready)
    return most


def _reads(node: Node, params: Params, known: set[Node]) -> frozenset[Node]:
    inputs = _inputs(node, params)
    return frozenset(together(*(lambda name=name: _maker(node, name, inputs[name], known) for name in inputs)))


def _inputs(node: Node, params: Params) -> Mapping[str, object]:
    try:
        return STAGES[node.stage].inputs(params, node.arm)
    except KeyError as error:
        raise ValueError(f"{join(node.where, error.args[0])}: missing; name an artefact's folder") from None


def _maker(node: Node, name: str, folder: object, known: set[Node]) -> Node:
    """The node that makes input `name` of `node`."""
    where = join(node.where, name)
    if not isinstance(folder, str):
        raise ValueError(f"{where}: should be an artefact's folder, such as data/teacher (got {shown(folder)})")
    with at(where):
        maker = Node.of_folder(folder)
    if maker == node:
        stated = replicates.split(folder)[0]  # params.yaml says of all its trainings what they read
        raise ValueError(f"{where}={stated}: the arm names itself; name what it starts from, such as data/teacher")
    if maker not in known:
        others = (each for each in known if each.where != node.where and each.stage != "evaluate")
        choices = listed(sorted(each.folder for each in others if replicates.number(each.stage, each.arm) == 1))
        raise ValueError(f"{where}={folder}: no such artefact in this experiment; valid: {choices}")
    return maker


def find(name: str, params: Params) -> Node:
    """The node called `name`; ValueError lists the valid names."""
    node = Node.parse(name)
    require(node, params)
    return node


def require(node: Node, params: Params) -> None:
    """ValueError, which lists the valid names, if the parameters name no such arm."""
    if node.arm is not None and node.arm not in (valid := replicates.names(params, node.stage)):
        what = "arm" if STAGES[node.stage].arms else "replicate"
        raise ValueError(f"{node.name}: no such {what} in params.yaml; valid: {listed(valid) or 'none'}")
