"""Work is begun anew when what it runs was edited, and only then."""

import ast
import shutil

import pytest

from stages.distillers import METHODS
from stages.io import code
from stages.policies import POLICIES

SOURCES = sorted((code.ROOT / "stages").rglob("*.py"))


@pytest.fixture
def digest(tmp_path):
    """The digest of what a node reaches, after edits to a copy of the house."""
    shutil.copytree(code.ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))

    def of(stage, method=None, edited=()):
        for path in edited:
            with (tmp_path / path).open("a") as stream:
                stream.write("# edited\n")
        return code.sha256_of_files(tmp_path, code.files(stage, method, tmp_path))

    return of


def test_an_edited_report_or_another_method_leaves_a_training_alone(digest):
    before = digest("distill", "tdm")
    others = ["stages/report/page.py", "stages/evaluate.py", "stages/distillers/dmd2.py", "stages/policies/dgpo.py"]
    tables = ["stages/distillers/__init__.py", "stages/policies/__init__.py", "stages/metrics/energy.py"]
    assert digest("distill", "tdm", [*others, *tables]) == before


@pytest.mark.parametrize(
    "edited",
    [
        "stages/distill.py",
        "stages/distillers/tdm.py",
        "stages/training/loop.py",
        "stages/io/run.py",
        "stages/core/rng.py",
    ],
)
def test_what_a_training_runs_begins_it_anew(digest, edited):
    assert digest("distill", "tdm") != digest("distill", "tdm", [edited])


def test_a_file_that_is_added_counts_once_it_is_imported(digest, tmp_path):
    before = digest("distill", "tdm")
    (tmp_path / "stages/core/fresh.py").write_text("ONE = 1\n")
    assert digest("distill", "tdm") == before
    with (tmp_path / "stages/core/rng.py").open("a") as stream:
        stream.write("def late():\n    from stages.core.fresh import (\n        ONE,\n    )\n")
    anew = digest("distill", "tdm")
    assert anew != digest("distill", "tdm", ["stages/core/fresh.py"])


@pytest.mark.parametrize("method", [*METHODS, *POLICIES])
def test_a_method_is_the_file_of_its_name(method):
    stage = "distill" if method in METHODS else "rl"
    found = {file.relative_to(code.ROOT).as_posix() for file in code.files(stage, method)}
    package = code.METHODS[stage].replace(".", "/")
    assert {path for path in found if path.startswith(("stages/distillers/", "stages/policies/"))} == {
        f"{package}/{method}.py"
    }


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(code.ROOT).as_posix())
def test_no_import_is_overlooked(file):
    """Against Python's own parser, which would take too long at every start."""
    text = file.read_text(encoding="utf-8")
    assert set(_parsed(text)) <= set(code.imported(text))


def _parsed(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            if node.module != "stages":
                yield node.module
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("stages."))
