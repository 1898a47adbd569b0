"""Evaluation: the plan of cells, and what an artefact of it holds."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from stages import evaluate
from stages.cells import identity
from stages.cells.bench import chosen, kept
from stages.core.config import check
from stages.core.frechet import frechet_distance
from stages.core.trainings import spread
from stages.core.types import Run
from stages.io import artefacts, places, run, storage
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.metrics.score import share
from stages.models.verifier import load_verifier
from tests import s3
from tests.cells.rigs import SECTION, SILENT, job_on, make_inputs

pytestmark = pytest.mark.slow

CFG = check(evaluate.Config, SECTION, "evaluate")


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    root = tmp_path_factory.mktemp("inputs") / "data"
    make_inputs(root)
    return job_on(root)


@pytest.fixture(scope="module")
def evaluated(job, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    root = tmp_path_factory.mktemp("outputs")
    return root / "out", dict(run.run(job, root / "out", root / "work", SILENT))


def euler(steps: int, guidance: float) -> dict:
    return {"rule": {"name": "euler"}, "schedule": {"name": "uniform", "steps": steps}, "guidance": guidance}


def test_the_plan_has_a_cell_for_every_way_of_sampling(job):
    planned = {unit["id"]: unit["sampler"] for unit in evaluate.plan(CFG, job) if unit["group"] != "flow"}
    assert planned == {
        "teacher.nfe2": euler(2, 1.0),
        "teacher.nfe1": euler(1, 1.0),
        "guidance.w2": euler(2, 2.0),
        "distill.fast": None,
        "rl.dgpo": euler(3, 1.0),
        "rl.again": euler(3, 1.0),
        "rl.tuned": None,
        "real.images": None,
    }


def test_an_arm_that_states_a_sampler_is_measured_with_it(job):
    arms = job.context["rl"] | {"dgpo": {**job.context["rl"]["dgpo"], "sampler": euler(5, 1.0)}}
    stated = replace(job, context={**job.context, "rl": arms})
    planned = {unit["id"]: unit["sampler"] for unit in evaluate.plan(CFG, stated)}
    assert planned["rl.dgpo"] is None, "the model carries it"
    assert planned["rl.again"] == euler(3, 1.0)


def test_a_flow_is_measured_once_a_model_whatever_its_steps(job):
    planned = {unit["id"]: unit["of"] for unit in evaluate.plan(CFG, job) if unit["group"] == "flow"}
    assert planned == {
        "flow.teacher.nfe2": "teacher.nfe2",
        "flow.rl.dgpo": "rl.dgpo",
        "flow.rl.again": "rl.again",
    }, "one step is no flow"


def test_the_frontier_starts_at_an_unguided_teacher_with_as_many_steps(job):
    assert "teacher.nfe7" in [unit["id"] for unit in evaluate.plan(replace(CFG, guidance_nfe=7), job)]
    assert "teacher.nfe7" not in [
        unit["id"] for unit in evaluate.plan(replace(CFG, guidance_nfe=7, guidance_scales=(2.0,)), job)
    ]


def test_no_steps_of_the_teacher_is_refused():
    with pytest.raises(ValueError, match="name at least one"):
        check(evaluate.Config, {**SECTION, "teacher_nfe": []}, "evaluate")


def test_real_images_are_the_ceiling_and_the_floor(job, evaluated):
    real = json.loads((evaluated[0] / "metrics.json").read_text())["real"]["images"]
    data, verifier = Dataset.load(job.input("dataset")), load_verifier(job.input("verifier"))
    assert real["score_test"] == real["score_seen"] == real["score_heldout"] == 1
    floor = frechet_distance(verifier.features(data.train_images), verifier.features(data.test_images))
    assert real["frechet_distance"] == pytest.approx(floor, rel=1e-5)


def test_metrics_have_stable_names(evaluated):
    out, flat = evaluated
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"teacher", "guidance", "distill", "rl", "real", "reflow"}
    assert metrics["teacher"]["nfe2"]["score_seen"] == flat["teacher.nfe2.score_seen"]
    assert metrics["distill"]["fast"]["training_network_evaluations"] == 1001
    assert metrics["reflow"] == {"straightness_teacher": 0.125}


@pytest.fixture(scope="module")
def filled(job, tmp_path_factory) -> tuple[Job, Path]:
    """The same evaluation in another folder, whose cells are kept, and its artefact."""
    home, root = tmp_path_factory.mktemp("elsewhere"), Path(job.inputs["teacher"]).parent
    shutil.copytree(root, home / "data")
    inputs = {name: str(home / "data" / Path(place).relative_to(root)) for name, place in job.inputs.items()}
    job = replace(job, inputs=inputs, cells=str(home / "cells"))
    assert run.kept(job, run.plan(job)) == []
    run.run(job, home / "out", home / "work", SILENT)
    return job, home / "out"


def test_two_runs_in_different_folders_make_the_same_bytes(evaluated, filled):
    assert artefacts.digest(filled[1]) == artefacts.digest(evaluated[0])


def test_cells_are_measured_once_and_the_artefact_does_not_tell(filled, tmp_path, monkeypatch):
    job, out = filled
    monkeypatch.setattr(evaluate, "work", None)
    run.run(job, tmp_path / "out", tmp_path / "work", SILENT)
    assert artefacts.digest(tmp_path / "out") == artefacts.digest(out)


def test_a_damaged_cell_alone_is_measured_again(filled, tmp_path):
    job = replace(filled[0], cells=str(tmp_path / "cells"))
    shutil.copytree(filled[0].cells, job.cells)
    units = {unit["id"]: unit for unit in run.plan(job)}
    places_of = {name: job.place_of(unit, "") for name, unit in units.items()}
    damaged = Path(places_of["rl.dgpo"]) / "cell.json"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole.replace(b"1", b"2"))
    assert set(units) - set(run.kept(job, list(units.values()))) == {"rl.dgpo"}
    with pytest.raises(ValueError, match="not finished or damaged"):
        run.finish(job, list(places_of.values()), str(tmp_path / "out"))
    for name, unit in units.items():
        run.run_unit(job, unit, places_of[name], SILENT)
    assert damaged.read_bytes() == whole


@pytest.mark.filterwarnings("ignore")  # of moto's server, which runs in this process
def test_a_colleague_s_cells_are_taken_from_the_store(job, evaluated, tmp_path, monkeypatch):
    with s3.server("team") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "theirs"))
        storage._connected.cache_clear()
        store = storage.Store("s3://team/x")
        inputs = {name: places.publish(store, Path(folder)) for name, folder in job.inputs.items()}
        job = replace(job, inputs=inputs, cells=f"{store.root}/cells")
        run.run(job, tmp_path / "out", tmp_path / "work", SILENT)
        assert artefacts.digest(tmp_path / "out") == artefacts.digest(evaluated[0])
        assert not (tmp_path / "work").exists(), "no unit was made anywhere else"
        monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "mine"))
        units = run.plan(job)
        assert run.kept(job, units) == [unit["id"] for unit in units]
    storage._connected.cache_clear()


def test_code_that_was_edited_meanwhile_measures_nothing(job, tmp_path, monkeypatch):
    unit = evaluate.plan(CFG, job)[0]
    monkeypatch.setattr(identity, "source", lambda *_: "other")
    with pytest.raises(ValueError, match="has changed since this began; run it again"):
        evaluate.work(CFG, job, unit, Run(out=tmp_path, resume=tmp_path, sink=SILENT))


def test_tables_for_plots_hold_the_metrics(evaluated):
    out, flat = evaluated
    tables = {}
    for name in ("leaderboard", "frontier", "quality_nfe"):
        with (out / f"{name}.csv").open(encoding="utf-8") as stream:
            tables[name] = list(csv.DictReader(stream))
    assert len(tables["leaderboard"]) == 8
    assert [row["guidance"] for row in tables["frontier"]] == ["1.0", "2.0"]
    assert float(tables["frontier"][1]["score_seen"]) == flat["guidance.w2.score_seen"]
    assert [row["nfe"] for row in tables["quality_nfe"]] == ["1", "1", "1", "2", "3", "3"]


def test_the_grid_shows_seen_and_held_out_prompts_on_the_same_noise(job, evaluated):
    data = Dataset.load(job.input("dataset"))
    grid = chosen(data, kept(data, CFG.num_samples), CFG.grid_prompts)
    assert [data.splits[place] for place in grid] == ["seen", "seen", "heldout"]
    page = (evaluated[0] / "report.html").read_text()
    assert all(prompt in page for prompt in data.texts(grid))


@pytest.fixture(scope="module")
def thrice(job, evaluated, tmp_path_factory) -> tuple[Path, Job, dict[str, float]]:
    """An arm of three trainings, each another model: the artefact, what made it and its metrics."""
    models = {"distill/fast-r2": "rl/tuned", "distill/fast-r3": "rl/dgpo", "rl/dgpo-r2": "rl/again"}
    inputs = {**job.inputs} | {name: job.inputs[model] for name, model in models.items()}
    arms = {stage: dict(own) for stage, own in job.context.items()}
    arms["distill"] |= dict.fromkeys(("fast-r2", "fast-r3"), arms["distill"]["fast"])
    arms["rl"]["dgpo-r2"] = arms["rl"]["dgpo"]
    job = replace(job, inputs=inputs, context=arms)
    root = tmp_path_factory.mktemp("thrice")
    return root / "out", job, dict(run.run(job, root / "out", root / "work", SILENT))


def test_each_training_is_a_cell_and_an_arm_is_a_row(thrice, evaluated):
    out, job, flat = thrice
    planned = {unit["id"]: unit for unit in evaluate.plan(CFG, job)}
    assert {"distill.fast", "distill.fast-r2", "distill.fast-r3", "rl.dgpo", "rl.dgpo-r2"} <= set(planned)
    assert planned["rl.dgpo-r2"]["sampler"] == planned["rl.dgpo"]["sampler"], "it starts from the teacher too"
    metrics = json.loads((out / "metrics.json").read_text())
    alone = json.loads((evaluated[0] / "metrics.json").read_text())
    assert list(metrics["distill"]) == ["fast"]
    single = metrics["trainings"]
    assert set(single) == {"distill.fast", "distill.fast-r2", "distill.fast-r3", "rl.dgpo", "rl.dgpo-r2"}
    assert {**single["distill.fast"], "trainings": 1} == alone["distill"]["fast"]
    fast, of_each = metrics["distill"]["fast"], [single[f"distill.fast{end}"] for end in ("", "-r2", "-r3")]
    distances = spread([each["frechet_distance"] for each in of_each])
    assert fast["trainings"] == 3
    assert fast["frechet_distance"] == pytest.approx(distances.mean)
    assert fast["frechet_distance_trainings_low"] == pytest.approx(distances.low)
    assert fast["frechet_distance_trainings_high"] == pytest.approx(distances.high)
    assert flat["distill.fast.frechet_distance_trainings_deviation"] == pytest.approx(distances.deviation)
    pooled = share(round(sum(10 * each["score_seen"] for each in of_each)), 30)
    assert (fast["score_seen"], fast["score_seen_high"]) == (pytest.approx(pooled.value), pytest.approx(pooled.high))
    rewarded = [name for name in fast if name.startswith("reward_") and "_trainings_" not in name]
    assert [name for name in rewarded if "heldout" not in name] == [
        "reward_again", "reward_dgpo", "reward_tuned",
    ], "an arm's replicates are trained for the same"  # fmt: skip
    assert len(rewarded) == 6, "on held-out prompts too"
    assert alone["teacher"]["nfe2"]["trainings"] == alone["rl"]["tuned"]["trainings"] == 1
    assert "trainings" not in alone
    assert "trainings" not in alone["real"]["images"]


def test_the_report_of_several_trainings_says_so(thrice):
    page = (thrice[0] / "report.html").read_text()
    assert "fast (n = 3) − dgpo (n = 2)" in page
    assert "p = " in page
    assert "one training on a side" in page
    assert ">fast-r2</th><td>1" not in page, "a replicate is no row"


def test_each_teacher_is_sampled_in_every_way_and_one_row_shows_them(job, evaluated, tmp_path):
    further = {"teacher/r2": job.inputs["rl/again"], "encode/r2": job.inputs["encode"]}
    job = replace(job, inputs={**job.inputs, **further})
    arms = {**job.context["rl"], "dgpo-r2": {**job.context["rl"]["dgpo"], "init": "data/teacher-replicates/r2"}}
    job = replace(job, inputs={**job.inputs, "rl/dgpo-r2": job.inputs["rl/tuned"]}, context={**job.context, "rl": arms})
    planned = {unit["id"]: unit for unit in evaluate.plan(CFG, job)}
    assert {"teacher.nfe1-r2", "teacher.nfe2-r2", "guidance.w2-r2", "flow.teacher.nfe2-r2"} <= set(planned)
    assert planned["guidance.w2-r2"]["input"] == "teacher/r2"
    of_the_second = ("teacher/r2", "rl/dgpo-r2")
    assert {evaluate._table(job, source) for source in of_the_second} == {"encode/r2"}
    assert {evaluate._table(job, source) for source in ("teacher", "distill/fast", "rl/tuned", None)} == {"encode"}
    assert planned["rl.dgpo-r2"]["sampler"] == planned["rl.dgpo"]["sampler"], "it starts from a teacher"
    run.run(job, tmp_path / "out", tmp_path / "work", SILENT)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    alone = json.loads((evaluated[0] / "metrics.json").read_text())
    assert list(metrics["teacher"]) == list(alone["teacher"])
    assert metrics["guidance"]["w2"]["trainings"] == 2
    each = [metrics["trainings"][f"teacher.nfe2{end}"]["frechet_distance"] for end in ("", "-r2")]
    assert each[0] == alone["teacher"]["nfe2"]["frechet_distance"]
    assert metrics["teacher"]["nfe2"]["frechet_distance"] == pytest.approx(spread(each).mean)
    assert metrics["teacher"]["nfe2"]["frechet_distance_trainings_high"] == pytest.approx(spread(each).high)
    assert "straightness_trainings_low" in metrics["teacher"]["nfe2"]
