"""What parameters no longer name is set aside, not lost."""

import pytest

from flows.project import aside


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arms_that_are_no_longer_named_are_set_aside(home):
    for name in ("kept", "kept-r2", "kept-r3", "gone"):
        (home / "data/distill" / name).mkdir(parents=True)
    (home / "data/distill/.gitkeep").touch()
    aside.set_aside({"distill": {"arms": {"kept": {"replicates": 2}}}, "rl": {"arms": {}}})
    assert sorted(p.name for p in (home / "data/distill").iterdir()) == [".gitkeep", "kept", "kept-r2"]
    assert all((home / ".fewstep/aside/distill" / name).is_dir() for name in ("kept-r3", "gone"))
    assert (home / "data/rl").is_dir()


def test_so_are_further_teachers(home):
    for name in ("r2", "r3"):
        (home / "data/teacher-replicates" / name).mkdir(parents=True)
    aside.set_aside({"distill": {"arms": {}}, "rl": {"arms": {}}, "teacher": {"replicates": 2}})
    assert [path.name for path in (home / "data/teacher-replicates").iterdir()] == ["r2"]
    assert (home / ".fewstep/aside/teacher-replicates/r3").is_dir()
