"""The command line as a whole: its help, its start, and where it may be called."""

import subprocess
import sys

import pytest

from flows.cli.main import main
from flows.runtime import errors, locks, outcomes
from flows.runtime.outcomes import Outcome


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    ["run", "stage", "compose", "status", "sample", "lineage", "rerun", "promote", "logs", "up", "down", "doctor"],
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"fewstep {command}" in capsys.readouterr().out


def test_the_command_line_is_quick_to_start():
    code = """if True:
        import sys
        from flows.__main__ import main
        try:
            main(["stage", "--help"])
        except SystemExit:
            print(sorted({"torch", "ray", "prefect", "mlflow", "dvc", "hydra"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_outside_a_project_the_message_says_so(home, capsys, monkeypatch):
    monkeypatch.setenv(outcomes.FILE, str(home / "told.json"))
    assert main(["status"]) == errors.FAILED == 1
    assert "run this inside the project's folder" in capsys.readouterr().err
    assert not outcomes.read(home / "told.json").passing


def test_what_cannot_be_understood_does_not_pass(home, monkeypatch):
    monkeypatch.setenv(outcomes.FILE, str(home / "told.json"))
    with pytest.raises(SystemExit):
        main(["stage", "--nonsense"])
    assert outcomes.read(home / "told.json") == Outcome([], passing=False)


def test_a_second_run_leaves_the_parameters_of_the_first(home, capsys, monkeypatch):
    (home / "dvc.yaml").touch()
    (home / "params").mkdir()
    (home / "params.yaml").write_text("first: true\n")
    monkeypatch.setenv(outcomes.FILE, str(home / "told.json"))
    with locks.hold("pipeline"):
        code = main(["run", "seed=7"])
    assert code == errors.PASSING == 75
    said = capsys.readouterr().err
    assert said.startswith("error: pipeline: process")
    assert outcomes.read(home / "told.json") == Outcome([said.strip().removeprefix("error: ")], passing=True)
    assert (home / "params.yaml").read_text() == "first: true\n"
