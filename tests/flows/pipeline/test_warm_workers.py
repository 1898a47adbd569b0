"""Workers are made warm for what can use them, and no more."""

import pytest

from flows.pipeline import run
from flows.pipeline.plan import Plan
from flows.project import graph
from tests.composed import params_of


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        (["distill@tdm1", "evaluate"], 1),  # one after the other
        (["distill@rectified", "distill@tdm1", "rl@dgpo", "evaluate"], 3),
        (["trajectories"], 8),  # whose shards are side by side
        (["evaluate"], 1),
    ],
)
def test_of_eight_as_many_as_have_something_to_do(changed: list[str], count: int) -> None:
    content = params_of("experiment=digits")
    plan = Plan(content, frozenset(graph.nodes(content)), {name: ["changed"] for name in changed})
    assert run._worth_warming(plan, 8) == count
    assert run._worth_warming(plan, 2) == min(count, 2)
