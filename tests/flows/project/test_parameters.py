"""params.yaml as a whole, whoever reads it: sections, seed, and the one rule for the names of arms."""

import copy
from pathlib import Path

import pytest
import yaml

from flows.project import graph, parameters
from flows.project.nodes import Node
from flows.tracking.registry import student_of
from stages.io import params

ROOT = Path(__file__).parents[3]
COMPOSED = yaml.safe_load(params.text(ROOT / "params.yaml"))
NAMES = [
    "x;touch PWNED;",
    "v1.5",
    "2",
    "a b",
    "",
    "a" * 65,
    "-a",
    "_a",
    "a/b",
    "../a",
    "a@b",
    "ａ",
    "é",
    "a\n",
    "$(x)",
    "${x}",
]
GOOD = ["a", "A", "tdm1", "dgpo_free", "a-b", "x" * 64, "null", "on"]


def changed(**sections):
    """The committed parameters with some sections in other shape."""
    return copy.deepcopy(COMPOSED) | sections


def arm(name):
    return changed(distill={"arms": {name: COMPOSED["distill"]["arms"]["tdm1"]}})


def test_the_committed_parameters_are_in_shape(tmp_path):
    assert parameters.read(ROOT / "params.yaml") == COMPOSED
    assert parameters.has_graph(COMPOSED)
    assert set(parameters.readable(COMPOSED)) == set(graph.nodes(COMPOSED))


@pytest.mark.parametrize("name", NAMES)
def test_one_rule_refuses_a_name_whoever_reads_it(tmp_path, name):
    rule = "is no arm's name: one is a letter of A-Z or a-z, then at most 63 of those, 0-9, _ and -"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(arm(name)))
    refusals = [lambda: parameters.read(tmp_path / "params.yaml"), lambda: graph.nodes(arm(name))]
    if name:  # "distill@" names no arm at all
        refusals += [lambda: Node.parse(f"distill@{name}"), lambda: student_of(f"distill-{name}")]
    for refusal in refusals:
        with pytest.raises(ValueError, match=rule):
            refusal()


def test_a_replicates_name_is_no_arms():
    with pytest.raises(ValueError, match=r"arms\.tdm1-r2: a name that ends in -r and a number is a replicate's"):
        parameters.checked(arm("tdm1-r2"))


@pytest.mark.parametrize("told", [0, 100, 1.0, True, "3", None])
def test_how_often_an_arm_is_trained_is_a_number(told):
    content = changed()
    content["distill"]["arms"]["tdm1"]["replicates"] = told
    with pytest.raises(ValueError, match=r"distill\.arms\.tdm1: replicates=.*: how often .* a whole number, 1 to 99"):
        parameters.checked(content)


@pytest.mark.parametrize("told", [0, 2.0, "3"])
def test_so_is_how_often_the_teacher_is(told):
    teacher = COMPOSED["teacher"] | {"replicates": told}
    with pytest.raises(ValueError, match=r"teacher: replicates=.*: how often it is trained is a whole number, 1 to 99"):
        parameters.checked(changed(teacher=teacher))


def test_a_closed_form_is_not_trained():
    with pytest.raises(ValueError, match="teacher: replicates: a closed form is not trained; leave the word out"):
        parameters.checked(changed(teacher={"kind": "exact", "nfe": 4, "replicates": 3}))


def test_how_often_an_arm_is_trained_is_stated():
    content = changed()
    del content["distill"]["arms"]["tdm1"]["replicates"]
    with pytest.raises(ValueError, match=r"distill\.arms\.tdm1: replicates is missing; every parameter is stated"):
        parameters.checked(content)


@pytest.mark.parametrize("word", ["nfe", "replicates"])
def test_an_arm_that_was_edited_without_its_trainings_is_told(tmp_path, word):
    content = changed()
    content["distill"]["arms"]["tdm1"][word] = 2
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"params\.yaml: trainings is not what its other .* compose` writes it"):
        parameters.read(tmp_path / "params.yaml")


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_goes_both_ways(name):
    node = Node("distill", name)
    assert parameters.checked(arm(name))
    assert Node.parse(node.name) == node == Node.of_folder(node.folder)


def test_arms_that_one_disk_cannot_hold_apart_are_refused():
    arms = {name: COMPOSED["distill"]["arms"]["tdm1"] for name in ("tdm1", "TDM1")}
    with pytest.raises(ValueError, match=r"distill\.arms: tdm1 and TDM1 are one folder where a disk ignores case"):
        parameters.checked(changed(distill={"arms": arms}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rl": {"arms": None}}, r"rl\.arms: should be a mapping of parameters \(got None\)"),
        ({"rl": {"arms": ["a"]}}, r"rl\.arms: should be a mapping .*got \['a'\]"),
        ({"rl": {"arms": {"a": None}}}, r"rl\.arms\.a: should be a mapping .*got None"),
        ({"rl": None}, r"rl: should be a mapping .*got None"),
        ({"rl": {}}, r"rl\.arms: missing"),
        ({"rl": {"arms": {}, "arm": {}}}, r"rl\.arm: unknown parameter; did you mean 'arms'\?"),
        ({"compute": None}, r"compute: should be a mapping"),
        ({"evaluate": 3}, r"evaluate: should be a mapping .*got 3"),
        ({"distill": {"arms": {True: {}}}}, r"distill\.arms\.True: the key True is no text; write it in quotes"),
        ({"evalaute": {}}, r"evalaute: unknown parameter; did you mean 'evaluate'\?"),
        ({"seed": 1.5}, r"seed: .*integer.*1\.5"),
        ({"seed": "abc"}, r"seed: .*integer.*'abc'"),
        ({"seed": -1}, r"seed: .*greater than or equal to 0"),
        ({"seed": 2**64}, r"seed: .*less than or equal to 18446744073709551615"),
        (
            {"storage": {"root": "???", "endpoint": None}},
            r"storage\.root: missing; say storage\.root=\.\.\. on the command",
        ),
    ],
)
def test_what_is_out_of_shape_is_told_by_address(sections, message):
    with pytest.raises(ValueError, match=message):
        parameters.checked(changed(**sections))


def test_everything_out_of_shape_is_told():
    content = changed(rl={"arms": None}, evaluate=None, seed="x", teachr={})
    del content["dataset"]
    with pytest.raises(ValueError, match="rl") as refusal:
        parameters.checked(content)
    told = {line.partition(":")[0] for line in str(refusal.value).splitlines()}
    assert told == {"rl.arms", "evaluate", "seed", "teachr", "dataset"}


@pytest.mark.parametrize("folder", [None, 3, ["data/teacher"], {}])
def test_an_input_that_is_no_path_is_told(folder):
    content = copy.deepcopy(COMPOSED)
    content["rl"]["arms"]["dgpo"]["init"] = folder
    with pytest.raises(ValueError, match=r"rl\.arms\.dgpo\.init: should be an artefact's folder, such as data/teacher"):
        graph.nodes(content)


@pytest.mark.parametrize(
    "folder", ["./data/teacher", "data//teacher", "data/teacher/", "data/distill/../teacher", "/data/teacher"]
)
def test_a_folder_has_one_spelling(folder):
    with pytest.raises(ValueError, match="inputs are data/<stage>"):
        graph.nodes(changed(rl={"arms": {"a": {"init": folder}}}))


def test_every_fault_of_the_graph_is_told():
    content = copy.deepcopy(COMPOSED)
    content["rl"]["arms"]["dgpo"]["init"] = "data/nowhere"
    content["distill"]["arms"]["tdm1"] |= {"teacher": "data/distill/tdm1", "init": None}
    with pytest.raises(ValueError, match="dgpo") as refusal:
        graph.nodes(content)
    assert len(str(refusal.value).splitlines()) == 3


@pytest.mark.parametrize("long", [9999 * "x", "data/" + 9999 * "x"])
def test_no_name_is_echoed_whole(long):
    content = copy.deepcopy(COMPOSED)
    content["rl"]["arms"]["dgpo"]["init"] = long
    for refusal in (lambda: graph.nodes(content), lambda: graph.find(long, content), lambda: Node("rl", long)):
        with pytest.raises(ValueError, match="characters") as told:
            refusal()
        assert len(str(told.value)) < 400
