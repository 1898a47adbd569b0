"""What a training costs, whatever the machine: the samples that pass through each network, and those that are scored.

A call is counted by its rows: a guided call, whose two branches ride in one batch, counts twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

KINDS = ("forward", "forward_part", "backward", "backward_part")
"""Samples that went through all of a network and through a part of it, and those whose gradient came back so."""
SCORED = "scored"
"""Samples that a reward judged."""
TOTALS = ("network_evaluations", "partial_evaluations", "backward_passes", "partial_backward_passes", "samples_scored")
"""What models are compared by: samples over all networks that see samples, and of these through a part of one."""


class Meter:
    """Counts of this process: samples by role and kind, in an order that is the same in every worker."""

    def __init__(self, roles: Iterable[str]) -> None:
        self._counts = dict.fromkeys([*(f"{role}/{kind}" for role in roles for kind in KINDS), SCORED], 0)

    @property
    def names(self) -> list[str]:
        """What the numbers of `take` count: "<role>/<kind>", and what was scored."""
        return list(self._counts)

    def add(self, name: str, samples: int) -> None:
        """`samples` more of `name`."""
        self._counts[name] += samples

    def take(self) -> list[int]:
        """The counts since they were last taken."""
        taken = list(self._counts.values())
        self._counts = dict.fromkeys(self._counts, 0)
        return taken


@dataclass(frozen=True)
class Cost:
    """What was counted, over all workers."""

    networks: Mapping[str, Mapping[str, int]]
    """Role -> kind -> samples, of the networks that see samples."""
    heads: Mapping[str, Mapping[str, int]]
    """The same of heads, which see another network's features: small beside it, and in no total."""
    scored: int

    @classmethod
    def of(cls, names: Sequence[str], counts: Sequence[int], heads: Iterable[str]) -> "Cost":
        """From a meter's `names` and what was taken from it; `heads` are the roles that are heads."""
        found, scored, apart = dict[str, dict[str, int]](), 0, set(heads)
        for name, count in zip(names, counts, strict=True):
            if name == SCORED:
                scored = count
                continue
            role, kind = name.split("/")
            found.setdefault(role, {})[kind] = count
        return cls(
            networks={role: kinds for role, kinds in found.items() if role not in apart},
            heads={role: kinds for role, kinds in found.items() if role in apart},
            scored=scored,
        )

    def __add__(self, other: "Cost") -> "Cost":
        """Both together; roles of one name are one role."""
        return Cost(
            networks=_sum(self.networks, other.networks),
            heads=_sum(self.heads, other.heads),
            scored=self.scored + other.scored,
        )

    @property
    def totals(self) -> dict[str, int]:
        """The numbers of `TOTALS`; the partial ones are contained in those before them."""
        forward, part, backward, backward_part = (
            sum(kinds[kind] for kinds in self.networks.values()) for kind in KINDS
        )
        counts = (forward + part, part, backward + backward_part, backward_part, self.scored)
        return dict(zip(TOTALS, counts, strict=True))


def _sum(a: Mapping[str, Mapping[str, int]], b: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    nothing = dict.fromkeys(KINDS, 0)
    return {
        role: {kind: a.get(role, nothing)[kind] + b.get(role, nothing)[kind] for kind in KINDS}
        for role in dict.fromkeys([*a, *b])
    }
