"""What goes, what stays: work whose key stands, work that somebody is at, and whatever is young."""

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from flows.cli.main import main
from flows.deployments import workspace
from flows.project import aside, work
from flows.project.nodes import LINEAGE, STAGES, Node
from flows.runtime import leases, locks
from flows.runtime.errors import Passing
from flows.versioning import gc
from stages.io import cells as kept
from stages.io import replicates, storage
from stages.io.artefacts import inventory
from stages.io.storage import Store, is_url
from tests import s3
from tests.flows import handmade

PARAMS = {name: {} for name in (*STAGES, "compute", "storage", "network", "registry")} | {
    "seed": 0,
    "raw": "stages/dataset.py",
    "storage": {"root": None, "endpoint": None},
    "distill": {
        "arms": {
            "a": {
                "method": "kd", "teacher": "data/teacher", "init": "data/teacher", "data": "data/reflow",
                "replicates": 1,
            }
        }
    },
    "rl": {"arms": {}},
}  # fmt: skip
PARAMS |= {"trainings": replicates.trainings(PARAMS)}
OLD_S = 10 * 86400


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project whose dataset is made and whose teacher is not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params").mkdir()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    made = Path("data/dataset")
    made.mkdir(parents=True)
    (made / "manifest.json").write_text(json.dumps({"schema": 1, "files": []}))
    return tmp_path


def leave(place, seconds=OLD_S):
    """A unit's folder that nobody has touched for so long."""
    (place / "all").mkdir(parents=True)
    (place / "all" / "state").write_bytes(b"12345")
    for path in (place / "all" / "state", place / "all", place):
        os.utime(path, (time.time() - seconds,) * 2)
    return place


def test_only_work_goes_that_is_old_and_nobodys(home, capsys):
    teacher, verifier = (work.key(Node(stage), PARAMS) for stage in ("teacher", "verifier"))
    gone = [leave(work.FOLDER / name) for name in ("teacher/aaaa", "distill@gone/bbbb")]
    gone += [leave(aside.FOLDER / "distill/x"), leave(workspace.WORK / "teacher/cccc")]
    kept = [leave(work.FOLDER / f"teacher/{teacher}"), leave(work.FOLDER / "teacher/young", 3600)]
    kept += [leave(work.FOLDER / "distill@a/dddd"), leave(aside.FOLDER / "distill/young", 3600)]
    held = leave(work.FOLDER / "verifier/eeee")
    assert verifier, "its input is made"
    with locks.hold("verifier"):
        assert main(["gc", "--dry-run"]) == 0
        looked = capsys.readouterr().out
        assert all(place.is_dir() for place in [*gone, *kept, held])
        assert [place.as_posix() in looked for place in [*gone, *kept, held]] == [True] * 4 + [False] * 5
        assert "would delete 4 places" in looked
        assert main(["gc"]) == 0
    assert "deleted 4 places" in capsys.readouterr().out
    assert all(place.is_dir() for place in [*kept, held])
    assert not any(place.exists() for place in gone)
    assert not (work.FOLDER / "distill@gone").exists(), "nothing is left of it"
    assert main(["gc", "--older-than", "0"]) == 0
    assert sorted(path.name for path in work.FOLDER.glob("*/*")) == sorted([teacher, "dddd"])


def test_work_of_a_node_whose_inputs_are_not_made_is_nobody_knows_whose(home):
    assert work.key(Node("distill", "a"), PARAMS) is None
    assert work.key(Node("dataset"), PARAMS)
    leave(work.FOLDER / "distill@a/dddd")
    assert gc.here(PARAMS, 1.0) == []


def test_work_that_somebody_takes_up_meanwhile_stays(home, capsys, monkeypatch):
    place, scheduled = leave(work.FOLDER / "teacher/aaaa"), leave(workspace.WORK / "teacher/cccc")
    found = gc.here

    with ExitStack() as stack:

        def here(*arguments):
            looked = found(*arguments)
            stack.enter_context(locks.hold("teacher"))
            return looked

        stack.enter_context(workspace.only_one(home, "a run", 1.0))
        monkeypatch.setattr(gc, "here", here)
        assert main(["gc"]) == 0
    said = capsys.readouterr().out
    assert "teacher/aaaa stays: teacher: process" in said
    assert "teacher/cccc stays: " in said
    assert "deleted 0 places" in said
    assert place.is_dir()
    assert scheduled.is_dir()


def test_what_was_set_aside_today_is_young_however_old_it_is(home):
    leave(Path("data/distill/gone"))
    aside.set_aside(PARAMS)
    assert (aside.FOLDER / "distill/gone").is_dir()
    assert gc.here(PARAMS, 1.0) == []


def keep(home, key, seconds=OLD_S):
    """A cell that nobody has read for so long."""
    kept.compute(f"{home}/{key}", lambda folder, _: (folder / "cell.json").write_text(key) and None, lambda *_: None)
    if not is_url(home):
        os.utime(Path(home) / key / "unit.json", (time.time() - seconds,) * 2)


def use(key):
    """The evaluation in data/ was made of this cell."""
    LINEAGE.mkdir(parents=True)
    (LINEAGE / "evaluate.json").write_text(json.dumps({"cells": {"teacher.nfe8": key}}))


def test_a_cell_goes_that_is_old_and_that_the_evaluation_does_not_show(home, capsys, monkeypatch):
    cells = home / ".fewstep" / "cells"
    for key in ("left", "shown"):
        keep(cells, key)
    keep(cells, "read", seconds=3600)
    killed = cells / ".dead.1234"
    killed.mkdir()
    os.utime(killed, (time.time() - OLD_S,) * 2)
    use("shown")
    main(["gc", "--dry-run"])
    assert {folder.name for folder in cells.iterdir()} == {"left", "shown", "read", ".dead.1234"}
    with locks.hold("evaluate"):
        main(["gc"])
        assert "cells/left stays: evaluate: process" in capsys.readouterr().out
    main(["gc"])
    assert {folder.name for folder in cells.iterdir()} == {"shown", "read"}
    monkeypatch.setenv("FEWSTEP_CELLS", "")
    main(["gc", "--older-than", "0"])
    assert {folder.name for folder in cells.iterdir()} == {"shown", "read"}


@pytest.mark.filterwarnings("ignore")  # of moto's server, which runs in this process
def test_a_stores_cell_keeps_its_objects_while_it_stays(store, home):
    handmade.begin()
    for key in ("left", "shown"):
        keep(f"{store.root}/cells", key)
    use("shown")
    assert not gc.in_store(store, PARAMS, 1.0), "both are young"
    assert not gc.objects(store, 0.0).sizes
    [litter] = gc.in_store(store, PARAMS, 0.0)
    assert litter.name == f"{store.root}/cells/left"
    assert len(gc.objects(store, 0.0, [litter.name]).sizes) == 1
    litter.remove()
    assert len(gc.objects(store, 0.0).sizes) == 1
    assert kept.read(f"{store.root}/cells/shown") is not None
    assert kept.read(f"{store.root}/cells/left") is None


def test_a_negative_age_is_refused(home, capsys):
    assert main(["gc", "--older-than", "-1"]) != 0
    assert main(["gc", "--older-than", "nan"]) != 0
    assert "--older-than nan: a number of days, 0 or more" in capsys.readouterr().err


@pytest.fixture
def store(home, monkeypatch):
    with s3.server("team") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        storage._connected.cache_clear()
        yield Store("s3://team/x")
    storage._connected.cache_clear()


def put(store, place, folder):
    """A finished unit at `place`, whose only file is an object; the object's path."""
    (folder / "payload").write_text(place)
    files = inventory(folder)
    store.put_all(folder, files)
    store.write_document(f"{place}/all/unit.json", {"schema": 1, "files": files})
    return f"objects/{files[0]['sha256'][:2]}/{files[0]['sha256']}"


@pytest.mark.filterwarnings("ignore")  # of moto's server, which runs in this process
def test_of_a_store_goes_what_has_no_lease_and_its_objects_with_it(store, home, monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unit")
    present = f"work/teacher/{work.key(Node('teacher'), PARAMS)}"
    places = [present, "work/teacher/left", "work/teacher/led", "work/rl@x/dead"]
    objects = {place: put(store, place, folder) for place in places}
    alone = {"host": "other", "pid": 1, "table": "another boot", "attempt": "a"}
    store.write_document("work/teacher/led.lease.json", alone | {"renewed": time.time()})
    store.write_document("work/rl@x/dead.lease.json", alone | {"renewed": time.time() - leases.DEAD_S})
    handmade.begin()
    assert gc.in_store(store, PARAMS, 1.0) == [], "all of it is young"
    found = gc.in_store(store, PARAMS, 0.0)
    names = [f"{store.root}/{place}" for place in ("work/rl@x/dead", "work/teacher/left")]
    assert [each.name for each in found] == names
    assert not gc.objects(store, 0.0).sizes, "there is still a seal that names each"
    ahead = gc.objects(store, 0.0, names).sizes
    for each in found:
        each.remove()
    assert sorted(store.list("work")) == sorted(
        [f"{present}/all/unit.json", "work/teacher/led.lease.json", "work/teacher/led/all/unit.json"]
    )
    gone = {objects["work/teacher/left"], objects["work/rl@x/dead"]}
    assert ahead.keys() == gc.objects(store, 0.0).sizes.keys() == gone


@pytest.mark.filterwarnings("ignore")
def test_work_of_a_store_that_another_clone_takes_up_meanwhile_stays(store, home):
    store.write_document("work/teacher/left/all/resume.json", {"files": []})
    [litter] = gc.in_store(store, PARAMS, 0.0)
    alone = {"host": "other", "pid": 1, "table": "another boot", "attempt": "a", "renewed": time.time()}
    store.write_document("work/teacher/left.lease.json", alone)
    with pytest.raises(Passing, match="is making the same from another clone"):
        litter.remove()
    assert "work/teacher/left/all/resume.json" in store.list("work")
