"""Cells are made once by whoever is first, believed only while they are whole, and counted by who cleans up."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.io import artefacts, cells, storage
from tests import s3
from tests.waiting import wait_for

SILENT = lambda _step, _metrics: None  # noqa: E731
ROOT = Path(__file__).parents[2]


class Body:
    """Makes a cell of two files, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder, _sink) -> None:
        self.calls += 1
        (folder / "cell.json").write_text('{"score": 0.5}')
        (folder / "samples.safetensors").write_bytes(b"samples")


@pytest.fixture(scope="module")
def endpoint():
    with pytest.MonkeyPatch.context() as patch, s3.server("team") as endpoint:
        patch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        storage._connected.cache_clear()
        yield endpoint
    storage._connected.cache_clear()


@pytest.fixture(params=["folder", "store"])
def home(request, tmp_path, monkeypatch):
    """Where cells are kept."""
    if request.param == "folder":
        return str(tmp_path / "cells")
    request.getfixturevalue("endpoint")
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    return f"s3://team/{tmp_path.name}/cells"


pytestmark = pytest.mark.filterwarnings("ignore")  # of moto's server, which runs in this process


def test_a_cell_is_made_once(home):
    body = Body()
    assert cells.read(f"{home}/abc") is None
    for _ in range(2):
        cells.compute(f"{home}/abc", body, SILENT)
    assert body.calls == 1
    found = cells.read(f"{home}/abc")
    assert found is not None
    assert (found / "cell.json").read_text() == '{"score": 0.5}'


def damage_folder(kind, place):
    folder = Path(place)
    match kind:
        case "altered":
            (folder / "cell.json").write_text('{"score": 0.9}')
        case "truncated":
            (folder / "samples.safetensors").write_bytes(b"sam")
        case "lost":
            (folder / "samples.safetensors").unlink()
        case "unsealed":
            (folder / artefacts.SEAL).unlink()
        case "half a seal":
            (folder / artefacts.SEAL).write_text('{"schema": 1, "fi')


@pytest.mark.parametrize("kind", ["altered", "truncated", "lost", "unsealed", "half a seal"])
def test_a_damaged_cell_is_made_again(kind, tmp_path):
    body, place = Body(), str(tmp_path / "cells" / "abc")
    cells.compute(place, body, SILENT)
    damage_folder(kind, place)
    assert cells.read(place) is None
    cells.compute(place, body, SILENT)
    assert body.calls == 2
    assert cells.read(place) is not None
    assert [folder.name for folder in (tmp_path / "cells").iterdir()] == ["abc"], "nothing else is left"


@pytest.mark.parametrize("content", [b'{"score": 0.9}', b'{"score"', None], ids=["altered", "truncated", "lost"])
def test_a_cell_whose_object_is_damaged_is_made_again(content, endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    body, place = Body(), f"s3://team/{tmp_path.name}/cells/abc"
    cells.compute(place, body, SILENT)
    found = cells.read(place)
    assert found is not None
    sha256 = next(entry["sha256"] for entry in artefacts.inventory(found) if entry["path"] == "cell.json")
    url = storage.Store.of_place(place).url(sha256)
    if content is None:
        storage.filesystem().rm(url)
    else:
        storage.filesystem().pipe_file(url, content)
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "another machine's"))
    assert cells.read(place) is None
    cells.compute(place, body, SILENT)
    assert body.calls == 2
    assert (cells.read(place) / "cell.json").read_text() == '{"score": 0.5}'


def test_a_damaged_copy_of_a_stores_cell_is_fetched_again(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    body, place = Body(), f"s3://team/{tmp_path.name}/cells/abc"
    cells.compute(place, body, SILENT)
    (cells.read(place) / "cell.json").write_text('{"score": 0.9}')
    assert (cells.read(place) / "cell.json").read_text() == '{"score": 0.5}'
    assert body.calls == 1


PROCESS = """
import sys, time
from pathlib import Path
from stages.io import cells

place, begun, go = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])

def body(folder, sink):
    (folder / "cell.json").write_text('{"score": ')
    begun.touch()
    while not go.exists():
        time.sleep(0.01)
    (folder / "cell.json").write_text('{"score": 0.5}')

cells.compute(place, body, lambda *_: None)
"""


def start(place: str, begun: Path, go: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", PROCESS, place, str(begun), str(go)], cwd=ROOT)
    wait_for(lambda: begun.exists() or process.poll() is not None)
    assert process.poll() is None, "it ended before it began"
    return process


def test_a_process_that_is_killed_leaves_no_cell(tmp_path):
    home = tmp_path / "cells"
    process = start(str(home / "abc"), tmp_path / "begun", tmp_path / "never")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cells.read(str(home / "abc")) is None
    (litter,) = cells.listed(str(home))
    assert litter.key.startswith(".abc.")
    cells.compute(str(home / "abc"), Body(), SILENT)
    assert cells.read(str(home / "abc")) is not None
    cells.remove(str(home), [litter.key])
    assert [each.key for each in cells.listed(str(home))] == ["abc"]


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_make_the_same_cell_at_once_leave_one(tmp_path, damaged):
    home, go = tmp_path / "cells", tmp_path / "go"
    if damaged:
        cells.compute(str(home / "abc"), Body(), SILENT)
        damage_folder("altered", home / "abc")
    processes = [start(str(home / "abc"), tmp_path / f"begun{i}", go) for i in range(2)]
    go.touch()
    assert [process.wait() for process in processes] == [0, 0]
    found = cells.read(str(home / "abc"))
    assert found is not None
    assert (found / "cell.json").read_text() == '{"score": 0.5}'
    assert [folder.name for folder in home.iterdir()] == ["abc"]


def test_who_cleans_up_sees_sizes_and_ages(home):
    body = Body()
    for key in ("a", "b"):
        cells.compute(f"{home}/{key}", body, SILENT)
    found = cells.listed(home)
    assert {each.key for each in found} == {"a", "b"}
    assert all(each.bytes >= len(b'{"score": 0.5}samples') for each in found)
    cells.remove(home, ["a"])
    assert [each.key for each in cells.listed(home)] == ["b"]
    assert cells.read(f"{home}/a") is None
    assert cells.read(f"{home}/b") is not None


def test_nothing_is_kept_before_anything_was_made(home):
    assert cells.listed(home) == []


def test_a_cell_that_is_read_is_young_again(tmp_path):
    home = tmp_path / "cells"
    for key in ("a", "b"):
        cells.compute(str(home / key), Body(), SILENT)
        os.utime(home / key / artefacts.SEAL, (1e9, 1e9))
    assert cells.read(str(home / "a")) is not None
    assert [each.key for each in cells.listed(str(home))] == ["b", "a"]


def test_a_stores_cell_that_is_read_is_young_again(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    place = f"s3://team/{tmp_path.name}/cells/abc"
    store, name = storage.Store.of_place(place), f"cells/abc/{artefacts.SEAL}"
    cells.compute(place, Body(), SILENT)
    written = store.list("cells")[name]["LastModified"]
    cells.read(place)
    assert store.list("cells")[name]["LastModified"] == written, "once a day is enough"
    monkeypatch.setattr(cells, "DAY_S", -1.0)
    content = store.read_document(name)
    while store.list("cells")[name]["LastModified"] == written:  # S3 tells whole seconds
        assert cells.read(place) is not None
    assert store.read_document(name) == content


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "cells").write_text("a file")
    with pytest.raises(OSError, match="cells"):
        cells.compute(str(tmp_path / "cells" / "abc"), Body(), SILENT)
    shutil.rmtree(tmp_path / "cells", ignore_errors=True)
