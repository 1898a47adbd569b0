"""Versions, scores and the gate, in a real MLflow store; artefacts and records are made by hand."""

import json
import re
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from scipy import stats

from flows.cli.commands import lineage as lineage_command
from flows.cli.commands import promote
from flows.lineage import promotion, resolve
from flows.lineage.history import History
from flows.project.nodes import Node
from flows.tracking import evaluations, tracker
from flows.tracking.registry import Registry, is_version, student_of
from stages.core.trainings import spread
from stages.io import replicates
from stages.report import Row
from tests.flows import handmade

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
GATE = {"metric": "score_heldout", "higher_is_better": True, "tolerance": 0.0, "same_judge": True, "clean_git": False}


class Team:
    """A project in which students are made and scored."""

    def __init__(self):
        handmade.begin()
        Path(".fewstep").mkdir()
        self.tracker = tracker.Tracker()
        self.client = self.tracker.client
        self.settings(**GATE)
        self.data, self.verifier = self.made("dataset", "d"), self.made("verifier", "v")

    def settings(self, **gate_settings):
        content = {"seed": 0, "raw": "stages/dataset.py", "registry": gate_settings, "evaluate": {"num_samples": 8}}
        arms = {"t": {"teacher": "data/dataset", "init": "data/dataset", "data": "data/dataset", "replicates": 1}}
        names = ("dataset", "verifier", "teacher", "encode", "trajectories", "reflow", "compute", "storage", "network")
        sections = {name: {} for name in names}
        content |= sections | {"distill": {"arms": arms}, "rl": {"arms": {}}}
        Path("params.yaml").write_text(yaml.safe_dump(content | {"trainings": replicates.trainings(content)}))

    def made(self, name, text, made_from=(), **facts):
        run = self.tracker.open(name, None, {})
        record = handmade.make(name, text, made_from, run=run, **facts)
        self.tracker.complete(Node.parse(name), run)
        return record

    def student(self, text, **facts):
        return self.made("distill@t", text, [self.data], **facts)

    def scored(self, student, score, num_samples=8, trainings=()):
        """An evaluation of it, of an arm whose `trainings` scored so if there are several; its run."""
        numbers = {"score_heldout": score, "score_heldout_low": 0.0, "frechet_distance": 2.0, "nfe": 1, "guidance": 1.0}
        run = self.tracker.open("evaluate", None, {})
        record = handmade.make("evaluate", f"{score}", [self.data, self.verifier, student], run=run)
        record["parameters"] = {"num_samples": num_samples, "teacher_nfe": [len(str(score))]}
        metrics = {
            "distill": {"t": numbers},
            "real": {"images": {"score_heldout": 1.0}},
            "reflow": {"transport_cost": 1.0},
        }
        if trainings:
            means, over = {**numbers, "score_heldout": fmean(trainings)}, {"score_heldout": spread(trainings)}
            row = Row(id="distill.t", group="distill", label="t", numbers=means, trainings=len(trainings), spreads=over)
            metrics |= {"distill": {"t": row.flat}, "trainings": {"distill.t": numbers}}
        Path("data/evaluate/metrics.json").write_text(json.dumps(metrics))
        evaluations.log(self.client, self.tracker.experiment, run, record)
        self.client.set_terminated(run, "FINISHED")
        return run, record

    def champion(self):
        found = Registry(self.client).aliased("distill-t", "champion")
        return found and found.number


@pytest.fixture
def team(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Team()


def call(command, *words):
    import argparse

    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return command.main(parser.parse_args(words))


def test_students_become_champions_by_the_score_of_their_own_version(team, capsys):
    first = team.student("one")
    with pytest.raises(ValueError, match="not promoted: evaluated does not hold"):
        call(promote, "distill@t")
    assert "no evaluation scored version 1" in capsys.readouterr().out
    team.scored(first, 0.5)
    assert call(promote, "distill@t", "--dry-run") == 0
    assert team.champion() is None
    assert call(promote, "distill@t") == 0
    assert team.champion() == "1"
    assert team.client.get_model_version("distill-t", "1").tags["promoted.value"] == "0.5"

    second = team.student("two")  # the candidate now; what the first version scored is not its score
    with pytest.raises(ValueError, match="evaluated does not hold"):
        call(promote, "distill@t")
    team.scored(second, 0.4)
    with pytest.raises(ValueError, match="champion does not hold"):
        call(promote, "distill@t")
    assert "0.1 worse; 0 worse is allowed" in capsys.readouterr().out
    assert team.champion() == "1"
    team.settings(**GATE | {"tolerance": 0.2})
    assert call(promote, "distill@t") == 0
    assert team.champion() == "2"
    assert call(promote, "distill-t/1") == 0, "back to the older version, which is in DVC's cache"
    assert team.champion() == "1"


def test_the_gate_says_how_trainings_differ(team, capsys):
    team.scored(team.student("one"), 0.5, trainings=[0.5, 0.52, 0.51])
    assert call(promote, "distill@t") == 0
    out = capsys.readouterr().out
    assert "score_heldout 0.5 at 1 NFE" in out
    assert "n = 3 trainings: 0.51, 0.4852 to 0.5348" in out
    second = team.student("two")
    team.scored(second, 0.6, trainings=[0.6, 0.4])
    assert call(promote, "distill@t") == 0
    out = capsys.readouterr().out
    p = stats.ttest_ind([0.6, 0.4], [0.5, 0.52, 0.51], equal_var=False).pvalue
    assert "0.1 better; 0 worse is allowed; its n = 3 trainings: 0.51, 0.4852 to 0.5348" in out
    assert f"cannot be told apart (p = {p:.2g} over 2 and 3 trainings)" in out
    [child] = evaluations.found(team.client, team.tracker.experiment, "distill@t", second["digest"])
    assert child.data.metrics["eval/score_heldout"] == 0.6, "its own"
    assert child.data.metrics["trainings/score_heldout"] == 0.5
    assert child.data.params["trainings"] == "2"
    team.scored(team.student("three"), 0.7)
    assert call(promote, "distill@t") == 0
    assert "one training on a side: trainings cannot be compared, samples only" in capsys.readouterr().out


def test_scores_by_another_judge_are_not_compared(team, capsys):
    team.scored(team.student("one"), 0.5)
    assert call(promote, "distill@t") == 0
    team.scored(team.student("two"), 0.6, num_samples=16)
    with pytest.raises(ValueError, match="champion does not hold"):
        call(promote, "distill@t")
    assert "was never scored on the same dataset" in capsys.readouterr().out
    team.settings(**GATE | {"same_judge": False})
    assert call(promote, "distill@t") == 0


def test_the_gate_refuses_what_it_cannot_trace(team, capsys):
    student = team.student("one", git={"commit": "c" * 40, "dirty": True})
    team.scored(student, 0.5)
    team.settings(**GATE | {"clean_git": True})
    with pytest.raises(ValueError, match="clean git does not hold"):
        call(promote, "distill@t")
    assert "distill@t: was made with uncommitted changes" in capsys.readouterr().out
    Path("data/dataset/payload").write_text("altered")
    for file in Path(".dvc/cache/files/md5").rglob("*"):
        if file.is_file() and file.read_bytes() == b"d":
            file.unlink()
    with pytest.raises(ValueError, match="lineage, clean git do not hold"):
        call(promote, "distill@t")
    assert "dataset: an older version, DVC's cache lacks its payload" in capsys.readouterr().out


def test_a_metric_that_is_not_measured_is_named(team, capsys):
    team.scored(team.student("one"), 0.5)
    team.settings(**GATE | {"metric": "beauty"})
    with pytest.raises(ValueError, match="not promoted"):
        call(promote, "distill@t")
    assert re.search(r"beauty: evaluate does not measure it; it measures .*frechet_distance", capsys.readouterr().out)
    team.settings(**GATE | {"tolerance": -1.0})
    with pytest.raises(ValueError, match=r"registry\.tolerance: .*greater than or equal to 0 .*-1\.0"):
        call(promote, "distill@t")


def test_logging_again_changes_nothing(team):
    student = team.student("one")
    run, record = team.scored(student, 0.5)
    before = len(team.client.search_runs([team.tracker.experiment], max_results=1000))
    evaluations.log(team.client, team.tracker.experiment, run, record)
    Registry(team.client).add(Node("distill", "t"), student["mlflow"]["run"], student, {})
    runs = team.client.search_runs([team.tracker.experiment], max_results=1000)
    assert len(runs) == before
    [child] = evaluations.found(team.client, team.tracker.experiment, "distill@t", student["digest"])
    assert child.data.metrics == {
        "eval/score_heldout": 0.5,
        "eval/frechet_distance": 2.0,
        "more/score_heldout_low": 0.0,
    }
    assert child.data.params == {"nfe": "1", "guidance": "1"}
    assert len(team.client.get_metric_history(child.info.run_id, "eval/score_heldout")) == 1
    own = team.client.get_run(student["mlflow"]["run"]).data
    assert own.metrics["eval/score_heldout.nfe1"] == 0.5
    assert own.tags["eval.run"] == run
    assert [version.number for version in Registry(team.client).versions("distill-t")] == ["1"]


def test_lineage_starts_from_anything(team, capsys):
    old = team.student("one")
    old_run, _ = team.scored(old, 0.5)
    new = team.student("two")
    history = History()
    [child] = evaluations.found(team.client, team.tracker.experiment, "distill@t", old["digest"])
    for start, digest in [
        ("distill@t", new["digest"]),
        ("data/distill/t", new["digest"]),
        ("data/distill/t/model/weights", new["digest"]),
        ("data/lineage/distill@t.json", new["digest"]),
        ("distill-t/1", old["digest"]),
        ("models:/distill-t@candidate", new["digest"]),
        (old["digest"][:8], old["digest"]),
        (old["mlflow"]["run"], old["digest"]),
    ]:
        assert resolve.find(start, Path(start).absolute(), history).record["digest"] == digest, start
    for run in (old_run, child.info.run_id):
        assert resolve.find(run, Path(run).absolute(), history).record["stage"] == "evaluate"
    Path("data/distill/t/payload").write_text("one")  # as the older version had it
    found = resolve.find("payload", Path("data/distill/t/payload").absolute(), history)
    assert (found.record["digest"], found.today) == (old["digest"], False)
    Path("data/distill/t/payload").write_text("nobody's")
    with pytest.raises(ValueError, match="are those of no version that distill@t is known to have made"):
        resolve.find("payload", Path("data/distill/t/payload").absolute(), history)
    with pytest.raises(ValueError, match=r"no such version of distill-t; there are: 2 @candidate, 1"):
        resolve.find("distill-t/9", Path("distill-t/9").absolute(), history)
    capsys.readouterr()
    assert call(lineage_command, "distill-t/1", "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    assert [(each["depth"], each["name"], each["holds"]) for each in tree["tree"]] == [
        (0, "distill@t", True),
        (1, "dataset", True),
    ]
    assert call(lineage_command, "distill@t", "--json") == 1, "its file was altered"


def test_a_further_teacher_has_a_lineage_by_its_name(team):
    record = team.made("teacher-replicates@r2", "weights", [team.data])
    for start in ("teacher-replicates@r2", "data/teacher-replicates/r2"):
        found = resolve.find(start, Path(start).absolute(), History())
        assert (found.record["digest"], found.today) == (record["digest"], True)
    assert team.client.get_run(record["mlflow"]["run"]).data.tags["stage"] == "teacher"


def test_names_of_versions():
    assert is_version("models:/distill-tdm1/3")
    assert is_version("rl-a-b@champion")
    assert not is_version("distill@tdm1")
    assert not is_version("data/teacher")
    assert not is_version("teacher-replicates@r2")
    assert student_of("rl-a-b") == "rl@a-b"
    with pytest.raises(ValueError, match="not a registered student"):
        student_of("teacher")


def test_a_missing_gate_is_said():
    with pytest.raises(ValueError, match="registry: should be a mapping"):
        promotion.Gate.of({})
