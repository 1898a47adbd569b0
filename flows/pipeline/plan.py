"""What a run has to make: the nodes that are wanted, and which of them have changed. Needs no server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.pipeline import validation
from flows.project import aside, graph, parameters
from flows.project.nodes import Node, Params
from flows.project.resources import Compute
from flows.project.storage import Storage
from flows.versioning import command, dvc


@dataclass(frozen=True)
class Plan:
    """A run's."""

    params: Params
    wanted: frozenset[Node]
    changed: Mapping[str, Sequence[str]]
    """Node's name -> why DVC would run it."""

    @property
    def is_empty(self) -> bool:
        """Whether everything wanted is up to date."""
        return not any(node.name in self.changed for node in self.wanted)


def wanted(until: Sequence[str]) -> tuple[Params, frozenset[Node]]:
    """The parameters in params.yaml, and the nodes called `until` with all that they need, or all.

    Raises Refused for what the parameters alone show to be wrong.
    """
    with validation.whole():
        content = parameters.read()
        Compute.of(content)
        Storage.of(content)
        return content, graph.needed(until, content)


def make(until: Sequence[str]) -> Plan:
    """As of now, in the words of DVC."""
    content, nodes = wanted(until)
    aside.set_aside(content)
    command.check_locks()
    return Plan(content, nodes, dvc.changed())
