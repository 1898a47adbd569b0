"""What evaluate measured, as MLflow is told: a run a model, and beside it what all trainings of its arm came to."""

from flows.tracking import evaluations

RECORD = {
    "inputs": {
        name: {"artefact": f"data/{name}", "digest": name, "mlflow_run": name, "made_by": name}
        for name in ("teacher", "teacher/r2", "distill/a", "distill/a-r2", "rl/b")
    }
}
METRICS = {
    "real": {"images": {"score_test": 1.0}},
    "teacher": {"nfe8": {"score_seen": 0.5, "nfe": 8, "trainings": 1}},
    "distill": {
        "a": {
            "score_seen": 0.7, "score_seen_low": 0.6, "nfe": 1, "trainings": 2,
            "score_seen_trainings_low": 0.1, "score_seen_trainings_high": 1.3, "score_seen_trainings_deviation": 0.14,
        }
    },
    "rl": {"b": {"score_seen": 0.9, "nfe": 8, "trainings": 1}},
    "reflow": {"straightness_teacher": 0.1},
    "trainings": {"distill.a": {"score_seen": 0.6, "nfe": 1}, "distill.a-r2": {"score_seen": 0.8, "nfe": 1}},
}  # fmt: skip


def test_each_training_has_its_own_numbers_and_its_arms():
    found = {score.name: score for score in evaluations.of(RECORD, METRICS)}
    assert list(found) == ["real@images", "teacher@nfe8", "rl@b", "distill@a", "distill@a-r2"]
    second = found["distill@a-r2"]
    assert second.source is not None
    assert second.source["digest"] == "distill/a-r2"
    assert second.metrics() == {
        "eval/score_seen": 0.8,
        "trainings/score_seen": 0.7,
        "trainings/score_seen_low": 0.1,
        "trainings/score_seen_high": 1.3,
        "trainings/score_seen_deviation": 0.14,
    }
    assert second.numbers["trainings"] == 2
    assert second.at_cost() == {"eval/score_seen.nfe1": 0.8}


def test_a_single_training_says_that_it_is_one():
    found = {score.name: score for score in evaluations.of(RECORD, METRICS)}
    assert found["rl@b"].metrics() == {"eval/score_seen": 0.9}
    assert found["rl@b"].numbers["trainings"] == 1
    assert "trainings" not in found["real@images"].numbers


def test_a_further_teachers_numbers_are_its_own():
    nfe8 = {"score_seen": 0.5, "trainings": 2, "score_seen_trainings_deviation": 0.1}
    each = {"teacher.nfe8": {"score_seen": 0.4}, "teacher.nfe8-r2": {"score_seen": 0.6}}
    metrics = {"teacher": {"nfe8": nfe8}, "guidance": {"w2": {"score_seen": 0.7}}, "trainings": each}
    found = {score.name: score for score in evaluations.of(RECORD, metrics)}
    assert {name: score.source["digest"] for name, score in found.items()} == {
        "guidance@w2": "teacher", "teacher@nfe8": "teacher", "teacher@nfe8-r2": "teacher/r2",
    }  # fmt: skip
    assert found["teacher@nfe8-r2"].metrics()["eval/score_seen"] == 0.6


def test_a_steered_rows_numbers_are_its_models_but_not_what_that_model_reaches():
    record = {**RECORD, "parameters": {"steered": {"tree": {"of": "rl/b"}}}}
    [score] = evaluations.of(record, {"steered": {"tree": {"score_seen": 0.9, "nfe": 64.0, "steering_ess": 0.3}}})
    assert (score.name, score.source["digest"]) == ("steered@tree", "rl/b")
    assert score.metrics() == {"eval/score_seen": 0.9, "more/steering_ess": 0.3}
    assert score.at_cost() == {}
