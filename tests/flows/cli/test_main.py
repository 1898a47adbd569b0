"""The command line as a whole: its help, its start, and where it may be called."""

import subprocess
import sys

import pytest

from flows.cli.main import main
from flows.runtime import locks


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


def test_outside_a_project_the_message_says_so(home, capsys):
    assert main(["status"]) == 1
    assert "run this inside the project's folder" in capsys.readouterr().err


def test_a_second_run_leaves_the_parameters_of_the_first(home, capsys):
    (home / "dvc.yaml").touch()
    (home / "params").mkdir()
    (home / "params.yaml").write_text("first: true\n")
    with locks.hold("pipeline"):
        code = main(["run", "seed=7"])
    assert code == 1
    assert "pipeline: process" in capsys.readouterr().err
    assert (home / "params.yaml").read_text() == "first: true\n"
