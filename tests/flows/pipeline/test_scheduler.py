"""Slots: who goes first, and who need not wait."""

import threading

from flows.pipeline.scheduler import Slots
from flows.project.nodes import STAGES, Node
from tests.waiting import wait_for

ARMS = {stage: {} for stage in STAGES} | {
    "distill": {"arms": {"a": {"teacher": "data/teacher", "init": "data/teacher", "data": "data/reflow"}}},
    "rl": {"arms": {"r": {"init": "data/teacher"}}},
}


def test_the_longest_chain_goes_first_even_if_it_asks_last():
    slots, order = Slots(1, ARMS), []

    def make(node):
        with slots.taken(node):
            order.append(node.name)

    for name in ("dataset", "verifier", "teacher", "encode"):
        slots.over(Node(name), made=True)
    first = threading.Thread(target=make, args=(Node("rl", "r"),))
    first.start()
    wait_for(lambda: slots._turn._waiters or order)
    assert order == [], "trajectories could start now, and more waits for it"
    make(Node("trajectories"))
    first.join()
    assert order == ["trajectories", "rl@r"]


def test_a_node_that_was_given_up_holds_nobody():
    slots = Slots(1, ARMS)
    for name in ("dataset", "verifier", "teacher", "encode"):
        slots.over(Node(name), made=True)
    slots.over(Node("trajectories"), made=False)
    with slots.taken(Node("rl", "r")):
        pass
