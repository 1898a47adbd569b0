"""The graph: right edges, an order that DVC can run, and refusals that name the fault."""

import copy

import pytest

from flows.project import graph
from flows.project.nodes import STAGES, Node

PARAMS = {stage: {} for stage in STAGES} | {
    "distill": {
        "arms": {
            "a": {"teacher": "data/teacher", "init": "data/teacher", "data": "data/reflow"},
            "b": {"teacher": "data/rl/r", "init": "data/distill/a", "data": "data/dataset"},
        }
    },
    "rl": {"arms": {"r": {"init": "data/teacher"}}},
}


def changed(stage, arm, **fields):
    content = copy.deepcopy(PARAMS)
    content[stage]["arms"].setdefault(arm, {"teacher": "data/teacher", "init": "data/teacher", "data": "data/reflow"})
    content[stage]["arms"][arm] |= fields
    return content


def test_an_arm_reads_what_its_parameters_name():
    assert graph.nodes(PARAMS)[Node("distill", "b")] == {
        Node("dataset"), Node("encode"), Node("rl", "r"), Node("distill", "a"),
    }  # fmt: skip


def test_evaluate_reads_every_arm():
    reads = graph.nodes(PARAMS)[Node("evaluate")]
    assert {Node("distill", "a"), Node("distill", "b"), Node("rl", "r")} <= reads


def test_every_node_comes_after_what_it_reads():
    seen = set()
    for node, reads in graph.nodes(PARAMS).items():
        assert reads <= seen
        seen.add(node)


def test_height_counts_the_longest_chain_of_readers():
    assert graph.height(Node("evaluate"), PARAMS) == 1
    assert graph.height(Node("distill", "b"), PARAMS) == 2
    assert graph.height(Node("rl", "r"), PARAMS) == 3
    # dataset, teacher, encode, trajectories, reflow, distill@a, distill@b, evaluate
    assert graph.height(Node("dataset"), PARAMS) == 8


def test_an_arm_may_not_name_itself():
    with pytest.raises(ValueError, match=r"distill\.arms\.a\.init=data/distill/a: the arm names itself"):
        graph.nodes(changed("distill", "a", init="data/distill/a"))


def test_a_circle_is_named():
    with pytest.raises(ValueError, match=r"distill@.* -> .*wait for each other"):
        graph.nodes(changed("distill", "a", init="data/distill/b"))


def test_an_input_that_nothing_makes_lists_what_there_is():
    with pytest.raises(ValueError, match=r"rl\.arms\.r\.init=data/distill/zz: no such artefact.*data/distill/a"):
        graph.nodes(changed("rl", "r", init="data/distill/zz"))


def test_an_input_outside_data_is_refused():
    with pytest.raises(ValueError, match=r"inputs are data/<stage>"):
        graph.nodes(changed("rl", "r", init="models/mine"))


def test_a_missing_input_is_named():
    content = changed("distill", "a")
    del content["distill"]["arms"]["a"]["teacher"]
    with pytest.raises(ValueError, match=r"distill\.arms\.a\.teacher: missing"):
        graph.nodes(content)


@pytest.mark.parametrize("name", ["distill", "teacher@a", "nope"])
def test_a_wrong_name_is_refused(name):
    with pytest.raises(ValueError, match=r"name one arm|has no arms|no stage is called"):
        graph.find(name, PARAMS)


def test_names_and_folders_go_both_ways():
    for node in graph.nodes(PARAMS):
        assert Node.parse(node.name) == node == Node.of_folder(node.folder)


def test_what_is_needed_ends_at_the_target():
    assert {node.name for node in graph.needed(["trajectories"], PARAMS)} == {
        "dataset", "teacher", "encode", "trajectories",
    }  # fmt: skip
    assert len(graph.needed([], PARAMS)) == 10
    with pytest.raises(ValueError, match="no stage is called 'teachers'"):
        graph.needed(["teachers"], PARAMS)
