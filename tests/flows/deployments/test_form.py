"""What may be typed into a scheduled run's form, what is deployed, and what a run's processes come to."""

import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prefect.states import Failed
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.deployments import child, flows, form, setup, workspace
from flows.project.nodes import STAGES
from flows.runtime import errors, processes
from flows.workers import gpu_limit
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[3]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def schema(flow):
    return parameter_schema(flow).model_dump()


def refused(**parameters):
    return [error.message for error in validate(parameters, schema(flows.experiment))]


def test_the_form_offers_the_presets_there_are_and_says_what_each_field_is():
    fields = schema(flows.experiment)["properties"]
    assert set(fields["experiment"]["enum"]) == {file.stem for file in (ROOT / "params/experiment").glob("*.yaml")}
    assert all(field.get("description") for field in fields.values())


@pytest.mark.parametrize(
    "override",
    ["teacher.lr=1e-3", "+a.b=1", "++a=[1,2]", "~rl.arms.dgpo", "/distiller@distill.arms.x=tdm", "note=two words"],
)
def test_an_override_as_hydra_writes_it_is_taken(override):
    assert not refused(experiment="smoke", overrides=[override])


@pytest.mark.parametrize("override", ["--config-dir=/etc", "rm -rf", "teacher", "=1", "$(x)=1", ""])
def test_what_is_no_override_is_refused(override):
    assert refused(experiment="smoke", overrides=[override])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("experiment", "nonsense"),
        ("seed", -1),
        ("seed", 1.5),
        ("ref", "--upload-pack=x"),
        ("ref", ""),
        ("hours", 0),
        ("hours", 1000),
        ("compute", "moon"),
        ("push", "perhaps"),
        ("overrides", "a=1"),
    ],
)
def test_a_bad_value_is_refused_by_the_schema(field, value):
    assert refused(**{field: value})


def test_what_was_typed_by_hand_comes_last():
    assert form.words("smoke", "local", 3, ["seed=4"]) == ["experiment=smoke", "compute=local", "seed=3", "seed=4"]
    assert form.words("smoke", "local", None, []) == ["experiment=smoke", "compute=local"]


def test_every_stage_is_deployed_with_parameters_that_its_form_takes():
    assert {each["name"] for each in DEPLOYMENTS} == {*STAGES, "nightly", "on-demand"}
    for each in DEPLOYMENTS:
        module, _, name = each["entrypoint"].rpartition(":")
        assert module == "flows/deployments/flows.py"
        assert not validate(each["parameters"], schema(getattr(flows, name)))
        assert each["parameters"].get("stage", each["name"]) == each["name"]
        assert each["work_pool"] == {"name": setup.POOL}
        assert each["tags"] == [setup.TAG]
        assert each["enforce_parameter_schema"]
        assert each["concurrency_limit"]["limit"] == 1


def test_a_run_is_dead_after_three_missed_signs_of_life():
    automation = setup.watch(180)
    assert automation.trigger.within == timedelta(seconds=540)
    assert automation.actions[0].state.value == "CRASHED"


OURS = "import os, sys; from pathlib import Path; from flows.runtime import outcomes\ntold = outcomes.asked()\n"
FAILS = "outcomes.write(told, outcomes.Outcome({}, passing={})); print('error: no'); sys.exit(1)"


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (OURS + FAILS.format(["lr: too large", "run it again"], False), ValueError, "^lr: too large / run it again$"),
        (OURS + FAILS.format(["a worker was killed"], True), errors.Passing, "^a worker was killed$"),
        ("import os; os.kill(os.getpid(), 9)", errors.Passing, "killed by signal 9"),
        ("print('fatal: no such branch, run it again'); exit(128)", ValueError, "fatal: no such branch"),
        ("exit(3)", ValueError, "exit code 3"),
    ],
)
def test_a_failure_is_a_persons_to_mend_or_may_pass(tmp_path, code, kind, message):
    with pytest.raises(kind, match=message):
        child.call([sys.executable, "-c", code], ROOT, uuid.uuid4().hex, lambda _: None, limit_s=PATIENCE_S)


@pytest.mark.parametrize(("error", "calls"), [(errors.Passing("a lease"), 2), (ValueError("lr: too large"), 1)])
def test_only_what_may_pass_is_tried_again(error, calls):
    state = Failed(data=error)
    task = flows._step(lambda: None, retries=1)
    tries = 1 + (task.retries if task.retry_condition_fn(task, None, state) else 0)
    assert tries == calls


def test_what_takes_too_long_is_ended_with_all_it_started(tmp_path, monkeypatch):
    """A grandchild in a session of its own, as servers are."""
    monkeypatch.setattr(processes, "_ORPHANS_S", 0.0)
    run, said = uuid.uuid4().hex, []
    code = "setsid sleep 300 & echo started $!; sleep 300"  # by a shell, which has begun before its time is over
    with pytest.raises(TimeoutError, match="not done after 2 s"):
        child.call(["sh", "-c", code], tmp_path, run, said.append, limit_s=2)
    assert said[0].startswith("started")
    assert not list(child.of_run(run))


def test_a_clean_environment_reaches_the_clone(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_RELAY", "/nowhere")
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "x")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    code = "import os; print(sorted(n for n in os.environ if n.startswith(('FEWSTEP_', 'PREFECT_'))))"
    said = child.call([sys.executable, "-c", code], tmp_path, "r", lambda _: None, limit_s=PATIENCE_S)
    assert "'FEWSTEP_PARENT'" in said[0]
    assert "'PREFECT_API_URL'" in said[0]
    assert "FEWSTEP_RELAY" not in said[0]
    assert "PREFECT__FLOW_RUN_ID" not in said[0]


def test_no_gpu_asked_for_takes_no_slot_and_asks_no_server(monkeypatch):
    monkeypatch.delattr(gpu_limit, "_limit")
    with gpu_limit.taken(0.0, 1.0) as held:
        assert held == 0


def test_gpus_are_counted_as_nvidia_smi_lists_them(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert subprocess.run(["nvidia-smi"], check=False, capture_output=True).returncode == 0
    assert gpu_limit.count() == 2
    for code in (6, 9):
        tool.write_text(f"#!/bin/sh\necho 'No devices were found, or no driver'\nexit {code}\n")
        assert gpu_limit.count() == 0
    tool.write_text("#!/bin/sh\necho 'GPU access blocked by the operating system'\nexit 4\n")
    with pytest.raises(ValueError, match=r"GPU access blocked .* say how many GPUs there are"):
        gpu_limit.count()


@pytest.mark.slow
def test_a_clone_knows_the_things_of_its_project_by_the_way_there(tmp_path, monkeypatch):
    root, clone = tmp_path / "root", tmp_path / "root/.fewstep/scheduled/clones/a-run"
    for folder in (root, clone):
        (folder / ".git/info").mkdir(parents=True)
        monkeypatch.chdir(folder)
        subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    workspace.Checkout(root, "a-run", "run", print)._share_with_worker()
    moved = root.rename(tmp_path / "moved")
    monkeypatch.chdir(moved / clone.relative_to(root))
    asked = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], check=True, capture_output=True, text=True)
    assert asked.stdout.strip() == str(moved / ".dvc/cache")
    assert Path("mlruns").resolve() == moved / "mlruns"
    assert Path(".fewstep/work").resolve() == moved / ".fewstep/scheduled/work"
