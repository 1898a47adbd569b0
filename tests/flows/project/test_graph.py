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


def test_each_training_is_a_node_with_inputs_of_its_own():
    content = changed("distill", "a", replicates=2)
    content["distill"]["arms"]["b"]["replicates"] = content["rl"]["arms"]["r"]["replicates"] = 3
    content["distill"]["arms"]["a"]["replicates"] = 3
    found = graph.nodes(content)
    assert found[Node("distill", "b-r2")] == {
        Node("dataset"),
        Node("encode"),
        Node("rl", "r-r2"),
        Node("distill", "a-r2"),
    }
    assert found[Node("distill", "a-r2")] == {Node("dataset"), Node("encode"), Node("teacher"), Node("reflow")}
    assert {Node("distill", "b"), Node("distill", "b-r3"), Node("rl", "r-r2")} <= found[Node("evaluate")]
    assert Node("distill", "b-r3").where == "distill.arms.b"
    assert graph.find("distill@b-r3", content) == Node.of_folder("data/distill/b-r3") == Node("distill", "b-r3")
    with pytest.raises(ValueError, match=r"distill@b-r4: no such arm in params.yaml; valid: a, a-r2, a-r3, b"):
        graph.find("distill@b-r4", content)


def test_with_a_teachers_replicate_goes_a_chain_of_its_own():
    content = changed("distill", "a", replicates=2) | {"teacher": {"replicates": 2}}
    content["rl"]["arms"]["r"]["replicates"] = 2
    found = graph.nodes(content)
    again = {stage: Node(stage, "r2") for stage in ("teacher", "encode", "trajectories", "reflow")}
    assert found[again["teacher"]] == {Node("dataset")}
    assert found[again["encode"]] == {Node("dataset"), again["teacher"]}
    assert found[again["trajectories"]] == {Node("dataset"), again["teacher"], again["encode"]}
    assert found[again["reflow"]] == {Node("dataset"), *(again[name] for name in ("teacher", "encode", "trajectories"))}
    assert found[Node("distill", "a-r2")] == {
        Node("dataset"),
        *(again[name] for name in ("teacher", "encode", "reflow")),
    }
    assert found[Node("rl", "r-r2")] == {Node("dataset"), Node("verifier"), again["teacher"], again["encode"]}
    assert {again["teacher"], again["encode"]} <= found[Node("evaluate")]
    assert again["reflow"] not in found[Node("evaluate")]
    assert again["teacher"].name == "teacher-replicates@r2"
    assert again["teacher"].where == "teacher"
    assert graph.find("reflow-replicates@r2", content) == Node.of_folder("data/reflow-replicates/r2") == again["reflow"]
    with pytest.raises(ValueError, match=r"teacher-replicates@r3: no such replicate in params.yaml; valid: r2"):
        graph.find("teacher-replicates@r3", content)
    with pytest.raises(ValueError, match="inputs are data/<stage>"):
        Node.of_folder("data/teacher/r2")


def test_a_fault_is_told_once_for_all_trainings():
    for wrong, message in (("data/nowhere/x", "no stage makes"), ("data/distill/z", "valid: data/dataset, data/dist")):
        content = changed("distill", "b", init=wrong, replicates=3)
        with pytest.raises(ValueError, match=message) as told:
            graph.nodes(content)
        assert len(str(told.value).splitlines()) == 1
    with pytest.raises(ValueError, match=r"^distill\.arms\.b\.init=data/distill/b: the arm names itself[^\n]*$"):
        graph.nodes(changed("distill", "b", init="data/distill/b", replicates=3))


def test_an_input_with_too_few_trainings_is_refused():
    content = changed("distill", "a", replicates=2)
    content["distill"]["arms"]["b"]["replicates"] = 3
    with pytest.raises(ValueError, match=r"arms\.b\.replicates=3: its init, data/distill/a, is trained 2 times"):
        graph.nodes(content)


def test_a_training_has_a_seed_of_its_own():
    content = {**PARAMS, "seed": 4}
    assert [Node(*each).seed(content) for each in (("teacher",), ("distill", "a"))] == [4, 4]
    assert Node("distill", "a-r2").seed(content) == Node("rl", "r-r2").seed(content) != 4


def test_every_node_comes_after_what_it_reads():
    seen = set()
    for node, reads in graph.nodes(PARAMS).items():
        assert reads <= seen
        seen.add(node)


def test_height_counts_the_longest_chain_of_readers():
    heights = graph.heights(graph.nodes(PARAMS))
    assert heights[Node("evaluate")] == 1
    assert heights[Node("distill", "b")] == 2
    assert heights[Node("rl", "r")] == 3
    # dataset, teacher, encode, trajectories, reflow, distill@a, distill@b, evaluate
    assert heights[Node("dataset")] == 8


def test_breadth_is_of_nodes_that_need_not_wait_for_each_other():
    reads = graph.nodes(PARAMS)
    a, b, r = Node("distill", "a"), Node("distill", "b"), Node("rl", "r")
    assert graph.breadth(reads, [a, Node("evaluate")]) == 1
    assert graph.breadth(reads, [a, r]) == 2
    assert graph.breadth(reads, [a, b, r, Node("evaluate")]) == 2, "b reads both"
    assert graph.breadth(reads, []) == 0


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
