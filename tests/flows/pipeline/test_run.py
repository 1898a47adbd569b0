"""The smoke experiment through real DVC, Prefect, Ray and MLflow, then every way it may fail.

The tests run in order and share one project, since the first run is what the others change.
"""

import json
import re
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.flows.clone import ask, refused
from tests.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def finished(project):
    """The project after one whole run, the first in it."""
    done = project.fewstep("run", "experiment=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    project.said = done.stdout
    yield project
    project.mend()


@pytest.fixture
def spoiled(finished):
    """The finished project, whose dvc.lock must not change and whose parameters and artefacts are put right after."""
    before, params = finished.lock(), (finished.root / "params.yaml").read_text()
    yield finished
    assert finished.lock() == before, "a stage that failed must not be recorded"
    (finished.root / "params.yaml").write_text(params)
    assert finished.dvc("checkout", "--force").returncode == 0  # DVC takes a stage's outputs away before it runs


@pytest.fixture
def faulty(spoiled):
    """The same, whose second shard does what `fault` says; the code stays so until a test mends it."""
    if not spoiled.original:
        spoiled.spoil("stages/trajectories.py", SHARD_1)
    spoiled.fault = spoiled.root / ".fewstep/fault"
    return spoiled


def ran(clone):
    """Nodes whose command the last pipeline run started."""
    latest = max((clone.root / ".fewstep/runs").glob("*.json"), key=lambda file: file.stat().st_mtime)
    return {name for name, entry in json.loads(latest.read_text())["stages"].items() if entry["ran"]}


AS_IT_IS = ("experiment=smoke", "distill.arms.tdm1.nfe=2")
"""What the experiment before them left."""
SHARD_1 = """
_work = work


def work(cfg, job, unit, run):
    if unit["shard"] == 1:
        exec(open(".fewstep/fault").read())
    _work(cfg, job, unit, run)
"""


def test_a_run_makes_every_node_and_says_what_came_of_it(finished):
    nodes = set(yaml.safe_load(finished.lock())["stages"])
    assert ran(finished) == nodes
    assert "teacher nfe32" in finished.said
    assert "computed nothing" in finished.said
    assert (finished.root / "data/evaluate/report.html").is_file()


def test_prefect_saw_every_flow_complete_with_its_logs(finished):
    flows = {run["name"]: run for run in ask(f"{finished.api}/flow_runs/filter", {})}
    nodes = set(yaml.safe_load(finished.lock())["stages"])
    assert nodes <= set(flows)
    assert {run["state_name"] for run in flows.values()} == {"Completed"}
    shards = [run for run in ask(f"{finished.api}/task_runs/filter", {}) if run["name"].startswith("shard-")]
    assert {run["state_name"] for run in shards} == {"Completed"}
    logs = ask(f"{finished.api}/logs/filter", {"logs": {"task_run_id": {"any_": [shards[0]["id"]]}}})
    assert any("took" in line["message"] for line in logs), "a worker's last words must reach the server"


def test_mlflow_has_one_run_a_node_under_one_parent(finished):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.root}/mlruns/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("fewstep").experiment_id])
    [parent] = [run for run in runs if run.info.run_name == "pipeline"]
    children = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    locks = yaml.safe_load(finished.lock())["stages"]
    assert set(children) == set(locks)
    teacher, tdm = children["teacher"], children["distill@tdm1"]
    assert teacher.data.params["budget.iterations"] == "20"
    assert any(name.startswith("loss") or "loss" in name for name in teacher.data.metrics)
    outs = {out["path"]: out["md5"] for out in locks["teacher"]["outs"]}
    digests = {entry.dataset.name: entry.dataset.digest for entry in tdm.inputs.dataset_inputs}
    assert digests["teacher"] == outs["data/teacher"] == teacher.data.tags["dvc.digest"]
    version = client.get_model_version_by_alias("distill-tdm1", "candidate")
    assert version.source.endswith("data/distill/tdm1/model")
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_mlflow_compares_models_by_the_same_names_and_shows_what_was_used(finished):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.root}/mlruns/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("fewstep").experiment_id])
    [parent] = [run for run in runs if run.info.run_name == "pipeline"]
    stages = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    evaluation = stages["evaluate"].info.run_id
    scored = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == evaluation}
    assert {"teacher@nfe32", "guidance@w2", "distill@tdm1", "rl@dgpo", "real@images"} <= set(scored)
    headlines = {"eval/score_seen", "eval/score_heldout", "eval/frechet_distance", "eval/precision", "eval/recall"}
    assert all(headlines <= set(run.data.metrics) for run in scored.values())
    numbers = json.loads((finished.root / "data/evaluate/metrics.json").read_text())["distill"]["tdm1"]
    assert scored["distill@tdm1"].data.metrics["eval/score_heldout"] == numbers["score_heldout"]
    assert stages["distill@tdm1"].data.metrics["eval/score_heldout.nfe1"] == numbers["score_heldout"]
    assert {f"eval/score_seen.nfe{n}" for n in (1, 2, 4, 8, 32)} <= set(stages["teacher"].data.metrics)
    for run in stages.values():
        assert run.data.metrics["system/memory_mib"] > 10, run.info.run_name
        assert run.data.metrics["system/workers"] >= 1
    (name,) = [name for name in stages["rl@dgpo"].data.metrics if name.startswith("prompt/7 ")]
    assert [each.step for each in client.get_metric_history(stages["rl@dgpo"].info.run_id, name)] == [0, 2]
    shown = [file.path for file in client.list_artifacts(stages["rl@dgpo"].info.run_id, "images")]
    assert {int(step) for path in shown for step in re.findall(r"^images/gallery.step.(\d+).", path)} == {0, 2}
    assert {"report.html", "timeline.html"} == {file.path for file in client.list_artifacts(parent.info.run_id)}


def test_events_tell_the_run_from_its_driver_and_its_workers(finished):
    lines = [json.loads(line) for line in (finished.root / ".fewstep/logs/events.jsonl").read_text().splitlines()]
    shards = [line for line in lines if line["unit"] == "shard-00000" and line["stage"] == "trajectories"]
    assert [line["message"].partition(" ")[0] for line in shards] == ["starts", "took"]
    driver = next(line for line in lines if line["message"].startswith("finished after"))
    assert shards[0]["worker"]["pid"] != driver["worker"]["pid"]
    assert shards[0]["run"] == driver["run"]
    assert shards[0]["mlflow_run"]
    said = finished.fewstep("logs", "trajectories").stdout
    assert "shard-00001 on " in said
    assert "timeline  .fewstep/runs/pipeline-" in finished.said


def test_lineage_holds_back_to_the_data(finished):
    done = finished.fewstep("lineage", "data/evaluate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    run = json.loads((finished.root / "data/lineage/teacher.json").read_text())["mlflow"]["run"]
    assert finished.fewstep("lineage", run).stdout.startswith("✓ teacher")


def test_a_recorded_run_made_again_is_bitwise_the_same(finished):
    def seen():
        flows = ask(f"{finished.api}/flow_runs/filter", {})
        return [run["state_name"] for run in flows if run["name"] == "distill@rectified"]

    before, then = finished.lock(), seen()
    done = finished.fewstep("rerun", "distill@rectified")
    assert done.returncode == 0, done.stdout + done.stderr
    assert seen() == [*then, "Completed"], "the project's server was told, and none was started for it"
    assert "✓ bitwise the same" in done.stdout
    assert finished.lock() == before
    assert not list((finished.root / ".fewstep/rerun").iterdir()), "equal bytes leave no folder behind"


def test_nothing_changed_means_nothing_runs(finished):
    done = finished.dvc("repro")
    assert "Running stage" not in done.stdout
    assert "up to date" in finished.fewstep("run", "experiment=smoke").stdout


def test_dvc_tells_the_stage_also_from_a_folder_below(finished):
    made = finished.root / "data/dataset/manifest.json"
    before = made.read_bytes()
    made.unlink()
    done = finished.dvc("repro", "-sf", "../dvc.yaml:dataset", inside="params")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"Running stage '(.*)'", done.stdout) == ["../dvc.yaml:dataset"]
    assert made.read_bytes() == before


def test_an_experiment_by_dvc_composes_the_same_parameters(finished):
    composed = finished.fewstep("compose", "--show", *AS_IT_IS).stdout
    done = finished.dvc("exp", "run", *[word for each in AS_IT_IS for word in ("-S", each)], "distill@tdm1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (finished.root / "params.yaml").read_text() == composed
    assert re.findall(r"Running stage '(.*)'", done.stdout) == ["distill@tdm1"]
    up_to_date = finished.fewstep("status").stdout.count("up to date")
    assert up_to_date == len(yaml.safe_load(finished.lock())["stages"]) - 1, "all but the evaluation"


def test_a_worker_that_dies_fails_the_stage_and_keeps_the_others(faulty):
    faulty.fault.write_text("__import__('os').kill(__import__('os').getpid(), 9)")
    refused(faulty.dvc("repro", "-s", "trajectories"), "a worker was killed or crashed; finished units are kept")
    seals = [file.parent.name for file in (faulty.root / ".fewstep/work/trajectories").rglob("unit.json")]
    assert "shard-00000" in seals
    assert "shard-00001" not in seals
    states = {run["state_name"] for run in ask(f"{faulty.api}/task_runs/filter", {})}
    assert "Running" not in states


def test_a_stage_that_fails_fails_the_run_and_what_it_finished_is_not_computed_again(faulty):
    faulty.fault.write_text("raise RuntimeError('boom')")
    done = faulty.fewstep("run", *AS_IT_IS, "trajectories.sampler.guidance=1.5")
    boom = r"RuntimeError: boom \(traceback: .fewstep/logs/trajectories.traceback\);"
    refused(done, rf"trajectories: {boom}.* \(its log: .fewstep/logs/trajectories.log\)")
    assert "skipped  evaluate" in done.stdout or "evaluate" not in done.stdout

    seals = (faulty.root / ".fewstep/work/trajectories").rglob("shard-00000/unit.json")
    seal = max(seals, key=lambda file: file.stat().st_mtime_ns)
    before = seal.stat().st_mtime_ns
    refused(faulty.dvc("repro", "-s", "trajectories"), boom)
    assert seal.stat().st_mtime_ns == before


def test_a_run_that_is_stopped_leaves_no_process(faulty):
    faulty.fault.write_text("__import__('time').sleep(600)")
    began = time.time()
    run = faulty.begin("run", *AS_IT_IS, "trajectories.sampler.guidance=1.5")
    reports = (faulty.root / ".fewstep/work/trajectories").rglob
    wait_for(lambda: any(file.stat().st_mtime > began for file in reports("shard-00001.jsonl")))
    run.terminate()
    assert run.wait(PATIENCE_S) == 130
    here = [p for p in psutil.process_iter(["cmdline", "cwd", "ppid"]) if p.info["cwd"] == str(faulty.root)]
    lines = {p.pid: " ".join(p.info["cmdline"]) for p in here}
    forks = [p.pid for p in here if "forkserver" in lines.get(p.info["ppid"], "")]  # of dvc; what they come from stays
    left = [line for line in lines.values() if "flows stage" in line or "flows run" in line or "-m dvc" in line]
    assert not [*forks, *left], lines
    states = {run["state_name"] for run in ask(f"{faulty.api}/flow_runs/filter", {})}
    assert "Running" not in states


def test_a_shard_that_hangs_is_ended(faulty):
    text = (faulty.root / "params.yaml").read_text()
    (faulty.root / "params.yaml").write_text(re.sub(r"stall_s: .*", "stall_s: 5.0", text))
    faulty.fault.write_text("__import__('time').sleep(600)")
    refused(faulty.dvc("repro", "-s", "trajectories"), "reported nothing for 5 s")


def test_a_truncated_shard_names_the_file_and_the_repair(finished):
    finished.mend()
    shard = next((finished.root / "data/trajectories").glob("shard-*.safetensors"))
    whole = shard.read_bytes()
    shard.unlink()  # it may be a link into DVC's cache
    shard.write_bytes(whole[:-8])
    lock = finished.lock()
    done = finished.dvc("repro", "-s", "reflow")
    refused(done, r"shard-\d+\.safetensors: truncated.*dvc checkout trajectories")
    assert finished.lock() == lock
    assert finished.dvc("checkout", "--force", "trajectories").returncode == 0
    assert shard.read_bytes() == whole


def test_an_artefact_of_other_parameters_is_refused(spoiled):
    text = (spoiled.root / "params.yaml").read_text()
    (spoiled.root / "params.yaml").write_text(re.sub(r"num_heldout_prompts: \d+", "num_heldout_prompts: 5", text))
    refused(spoiled.fewstep("stage", "teacher"), r"data/dataset: made by other parameters: num_heldout_prompts was 18")


def test_an_unknown_parameter_stops_before_any_work(spoiled):
    done = spoiled.fewstep("run", "experiment=smoke", "+teacher.colour=red")
    refused(done, r"teacher\..*colour: unknown parameter")


def test_one_arms_parameter_runs_that_arm_and_an_arm_no_longer_named_is_set_aside(finished):
    done = finished.fewstep("run", "experiment=smoke", "distill.arms.tdm1.student_lr=1e-4", "~distill.arms.cd")
    assert done.returncode == 0, done.stderr
    assert ran(finished) == {"distill@tdm1", "evaluate"}
    assert not (finished.root / "data/distill/cd").exists()
    assert "cd" not in json.loads((finished.root / "data/evaluate/metrics.json").read_text())["distill"]
    spans = json.loads((finished.root / "data/lineage/evaluate.json").read_text())["spans"]
    assert [span["unit"] for span in spans] == ["plan", "distill.tdm1", "finish"], "other models are not measured again"
    assert Path(finished.root / ".fewstep/aside/distill/cd").is_dir()
