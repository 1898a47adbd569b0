"""What stands between a stage and wrong inputs or a full disk."""

import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest

from flows.pipeline import execution
from flows.project.nodes import STAGES
from stages.io import artefacts, storage
from stages.io.storage import Store
from tests import s3


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder, parameters, seed=0):
    build = folder.parent / "build"
    build.mkdir(parents=True)
    (build / "payload").write_text("p")
    artefacts.commit(build, folder, stage="teacher", arm=None, seed=seed, parameters=parameters)


def test_an_input_made_by_other_parameters_is_refused(home):
    made(home / "data/teacher", {"lr": 0.1, "net": {"width": 8}})
    content = {stage: {} for stage in STAGES} | {"seed": 0, "teacher": {"lr": 0.1, "net": {"width": 8}}}
    execution._check_input("data/teacher", content)
    content["teacher"] = {"lr": 0.1, "net": {"width": 16}}
    with pytest.raises(
        ValueError, match=r"data/teacher: made by other parameters: net\.width was 8, params\.yaml says 16"
    ):
        execution._check_input("data/teacher", content)


def test_an_input_made_by_another_seed_is_refused(home):
    made(home / "data/teacher", {}, seed=1)
    with pytest.raises(ValueError, match="seed was 1"):
        execution._check_input("data/teacher", {stage: {} for stage in STAGES} | {"seed": 0})


def test_a_full_disk_is_found_before_the_work(home, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="only 3 MiB are free"):
        execution._check_disk()


@pytest.fixture(params=["folder", "store"])
def task(request, home, monkeypatch):
    """A task with a work folder here, or with one in a store."""
    work = home / "work"
    work.mkdir()
    if request.param == "folder":
        yield SimpleNamespace(work=work, place=str(work), store=None)
        return
    with s3.server("team") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        storage._connected.cache_clear()
        yield SimpleNamespace(work=work, place="s3://team/x/work/teacher/k", store=Store("s3://team/x"))
    storage._connected.cache_clear()


@pytest.mark.filterwarnings("ignore")  # of moto's server, which runs in this process
def test_work_that_is_gone_on_with_tells_every_code_that_it_began_with(task, monkeypatch):
    first, second = {"commit": "a" * 40, "dirty": False}, {"commit": "b" * 40, "dirty": True}
    for code, told in [(first, first), (first, first), (second, second | {"before": [first]})]:
        monkeypatch.setattr(execution.records, "code", lambda code=code: code)
        assert execution._code(task) == told
    monkeypatch.setattr(execution.records, "code", lambda: first)
    assert execution._code(task) == first | {"before": [second]}
