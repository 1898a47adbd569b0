"""What parameters no longer name is set aside, not lost."""

import pytest

from flows.project import aside


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arms_that_are_no_longer_named_are_set_aside(home):
    for name in ("kept", "gone"):
        (home / "data/distill" / name).mkdir(parents=True)
    (home / "data/distill/.gitkeep").touch()
    aside.set_aside({"distill": {"arms": {"kept": {}}}, "rl": {"arms": {}}})
    assert sorted(p.name for p in (home / "data/distill").iterdir()) == [".gitkeep", "kept"]
    assert (home / ".fewstep/aside/distill/gone").is_dir()
    assert (home / "data/rl").is_dir()
