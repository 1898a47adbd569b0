"""Modules tried in a process of their own."""

from flows.runtime import imports
from tests.waiting import PATIENCE_S, wait_for


def tried(*modules, limit_s=PATIENCE_S):
    return imports.faults(imports.start(modules), modules, limit_s)


def test_each_module_is_answered(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken.py").write_text("raise OSError('libx.so: not there\\nmore')")
    found = tried("json", "broken", "no_such_module", "csv")
    assert found == {
        "json": None,
        "broken": "OSError: libx.so: not there",
        "no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
        "csv": None,
    }


def test_one_that_ends_the_process_or_never_ends_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}")
    (tmp_path / "killer.py").write_text("import os; os.kill(os.getpid(), 9)")
    begun = tmp_path / "begun"
    (tmp_path / "sleeper.py").write_text(f"import time; open({str(begun)!r}, 'w').close(); time.sleep(60)")
    found = tried("json", "killer", "csv")
    assert found == {"json": None, "killer": "ended the process (code -9)", "csv": "was not tried"}
    process = imports.start(["json", "sleeper"])
    wait_for(begun.exists)
    found = imports.faults(process, ["json", "sleeper"], limit_s=0.5)
    assert found == {"json": None, "sleeper": "did not come to an end within 0.5 s"}
