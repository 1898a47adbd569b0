"""An arm's trainings: names, seeds, inputs, and that more of them change none of those that there are."""

import copy

import pytest

from stages.io import replicates

TEACHER = "data/teacher"
PARAMS = {
    "seed": 7,
    "teacher": {"lr": 2, "replicates": 1},
    "encode": {"size": 3},
    "trajectories": {"steps": 4},
    "reflow": {"ot": 5},
    "distill": {
        "arms": {
            "a": {"teacher": TEACHER, "init": TEACHER, "data": "data/reflow", "lr": 1, "replicates": 3},
            "b": {"teacher": "data/distill/a", "init": "data/distill/c", "data": "data/dataset", "replicates": 3},
            "c": {"teacher": TEACHER, "init": TEACHER, "data": "data/dataset", "replicates": 1},
        }
    },
    "rl": {"arms": {"r": {"init": "data/distill/b", "replicates": 2}}},
}


def with_replicates(stage, arm, count):
    content = copy.deepcopy(PARAMS)
    content[stage]["arms"][arm]["replicates"] = count
    return content


@pytest.mark.parametrize(("arm", "number", "name"), [("a", 1, "a"), ("a", 2, "a-r2"), ("a-r", 12, "a-r-r12")])
def test_a_name_goes_both_ways(arm, number, name):
    assert replicates.named(arm, number) == name
    assert replicates.split(name) == (arm, number)


@pytest.mark.parametrize("name", ["a-r2", "resnet-r50", "a-r1", "a-r02"])
def test_an_arm_may_not_be_called_like_a_replicate(name):
    with pytest.raises(ValueError, match="is a replicate's; call it something else"):
        replicates.stated(name)


@pytest.mark.parametrize("name", ["r2", "a-r", "a-r2b", "ar2", "a_r2", "dgpo-2"])
def test_other_names_are_an_arms_own(name):
    assert replicates.stated(name) == name
    assert replicates.split(name) == (name, 1)


def test_the_first_seed_is_the_experiments_and_the_others_are_a_function_of_it():
    seeds = {(seed, i): replicates.seed_of(seed, i) for seed in (0, 1, 2**63) for i in range(1, 100)}
    assert all(seeds[seed, 1] == seed for seed in (0, 1, 2**63))
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds.values())
    # int(hashlib.sha256(b"0/2").hexdigest()[:13], 16): it may never change, or every replicate is another
    assert seeds[0, 2] == 2775594272161853


def test_each_training_is_named_and_lacks_the_word():
    assert replicates.names(PARAMS, "distill") == ["a", "a-r2", "a-r3", "b", "b-r2", "b-r3", "c"]
    found = replicates.trainings(PARAMS)
    assert list(found["rl"]) == ["r", "r-r2"]
    assert found["distill"]["a-r3"] == {
        "seed": replicates.seed_of(7, 3),
        "section": {"teacher": TEACHER, "init": TEACHER, "data": "data/reflow", "lr": 1},
        "encode": "data/encode",
    }


def test_a_training_reads_its_own_of_what_is_trained_as_often_and_else_the_first():
    found = replicates.trainings(PARAMS)
    sections = [found["distill"][name]["section"] for name in ("b", "b-r2", "b-r3")]
    assert [own["teacher"] for own in sections] == ["data/distill/a", "data/distill/a-r2", "data/distill/a-r3"]
    assert {own["init"] for own in sections} == {"data/distill/c"}
    assert found["rl"]["r-r2"]["section"]["init"] == "data/distill/b-r2"
    assert not list(replicates.faults(PARAMS))


def test_more_replicates_make_the_new_ones_only():
    before = replicates.trainings(PARAMS)["distill"]
    after = replicates.trainings(with_replicates("distill", "a", 5))["distill"]
    assert list(after) == ["a", "a-r2", "a-r3", "a-r4", "a-r5", "b", "b-r2", "b-r3", "c"]
    assert {name: after[name] for name in before} == before
    once = replicates.trainings(with_replicates("rl", "r", 1))["rl"]
    assert once == {"r": replicates.trainings(PARAMS)["rl"]["r"]}


def test_an_input_that_is_trained_several_times_but_too_few_is_told():
    [fault] = replicates.faults(with_replicates("distill", "a", 2))
    assert fault == (
        "distill.arms.b.replicates=3: its teacher, data/distill/a, is trained 2 times; train that once, for all to "
        "share, or at least 3 times, one for each"
    )


@pytest.mark.parametrize("told", [0, -1, 100, 2.0, True, "3", None, [2]])
def test_what_can_be_no_number_of_trainings_is_one(told):
    assert replicates.names(with_replicates("distill", "a", told), "distill")[:2] == ["a", "b"]


@pytest.mark.parametrize("arms", [None, [], 3, {"a": None}, {"a": 3}, {True: {}}])
def test_what_is_out_of_shape_is_left_to_the_check(arms):
    content = {"seed": 0, "distill": {"arms": arms}, "rl": None, "teacher": 3}
    assert replicates.trainings(content)["rl"] == {}


def test_a_training_that_there_is_not_is_a_missing_key():
    with pytest.raises(KeyError):
        replicates.section(PARAMS, "distill", "a-r4")
    with pytest.raises(KeyError):
        replicates.section(PARAMS, "distill", "z")
    with pytest.raises(KeyError):
        replicates.section(TAUGHT, "reflow", "r4")


TAUGHT = PARAMS | {"teacher": {"lr": 2, "replicates": 3}}


def test_with_a_teacher_goes_what_is_made_of_it():
    before, after = replicates.trainings(PARAMS), replicates.trainings(TAUGHT)
    assert before["teacher"] == after["teacher"] == {"seed": 7, "section": {"lr": 2}}, "without a word of replicates"
    groups = {f"{stage}-replicates": PARAMS[stage] for stage in ("encode", "trajectories", "reflow")}
    groups["teacher-replicates"] = {"lr": 2}
    for group, own in groups.items():
        assert before[group] == {}
        assert after[group] == {f"r{i}": {"seed": replicates.seed_of(7, i), "section": own} for i in (2, 3)}


def test_an_arms_training_reads_its_own_teacher_and_what_was_made_of_it():
    found = replicates.trainings(TAUGHT)["distill"]
    assert found["a"] == replicates.trainings(PARAMS)["distill"]["a"]
    assert found["a-r2"]["section"]["teacher"] == "data/teacher-replicates/r2"
    assert found["a-r3"]["section"]["data"] == "data/reflow-replicates/r3"
    assert found["b-r2"]["section"]["data"] == "data/dataset", "all share it"
    assert found["c"]["section"]["teacher"] == "data/teacher"


def test_a_training_reads_prompts_by_its_own_teachers_table():
    found = replicates.trainings(TAUGHT)
    tables = {name: own["encode"] for stage in ("distill", "rl") for name, own in found[stage].items()}
    assert {name: tables[name] for name in ("a", "a-r2", "c", "r")} == {
        "a": "data/encode", "a-r2": "data/encode-replicates/r2", "c": "data/encode", "r": "data/encode",
    }  # fmt: skip
    content = copy.deepcopy(TAUGHT)
    content["distill"]["arms"]["b"]["init"] = "data/distill/a"
    assert replicates.table_of(content, "rl", "r-r2") == "data/encode-replicates/r2", "by way of b and a"
    assert not list(replicates.faults(content))
    content["distill"]["arms"]["c"]["init"] = "data/distill/a-r3"
    content["distill"]["arms"]["c"]["teacher"] = "data/teacher-replicates/r3"
    assert replicates.table_of(content, "distill", "c") == "data/encode-replicates/r3", "it says so itself"


def test_models_of_different_teachers_do_not_go_together():
    [fault] = set(replicates.faults(TAUGHT))
    assert fault.startswith("distill.arms.b: its teacher and its init descend from different teachers")


def test_arms_that_wait_for_each_other_descend_from_nobody():
    content = copy.deepcopy(PARAMS)
    content["distill"]["arms"]["c"]["init"] = content["distill"]["arms"]["c"]["teacher"] = "data/rl/r"
    assert replicates.table_of(content, "rl", "r") == "data/encode"


def test_too_few_teachers_are_told():
    faults = list(replicates.faults(PARAMS | {"teacher": {"replicates": 2}}))
    faults = [fault for fault in faults if "descend" not in fault]
    assert [fault.partition(",")[0] for fault in faults] == [
        f"distill.arms.a.replicates=3: its {word}" for word in ("teacher", "init", "data")
    ]


@pytest.mark.parametrize(
    ("stage", "arm", "name", "number"),
    [
        ("teacher", None, "teacher", 1),
        ("teacher", "r2", "teacher-replicates@r2", 2),
        ("reflow", "r12", "reflow-replicates@r12", 12),
        ("encode", "r2", "encode-replicates@r2", 2),
        ("distill", "a", "distill@a", 1),
        ("rl", "r2", "rl@r2", 1),
        ("rl", "r2-r3", "rl@r2-r3", 3),
    ],
)
def test_a_node_has_a_name_and_a_number(stage, arm, name, number):
    assert replicates.node_name(stage, arm) == name
    assert replicates.number(stage, arm) == number
