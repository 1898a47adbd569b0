"""What MLflow has yet to be told."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from flows.project.nodes import Node
from flows.tracking import outbox

NODE = Node("distill", "tdm1")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def seen_by_another():
    """A thread of its own, whose locks are its own as another process's are."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(lambda: list(outbox.waiting())).result()


def test_a_note_stays_until_all_is_told_and_is_nobody_elses_meanwhile():
    def tell():
        with outbox.noted(NODE, "run1"):
            assert seen_by_another() == []
            raise ConnectionError

    with pytest.raises(ConnectionError):
        tell()
    assert seen_by_another() == [(NODE, "run1")]
    with outbox.noted(NODE, "run1"):
        pass
    assert not list(outbox.FOLDER.iterdir())


def test_a_note_that_was_sent_while_somebody_looked_is_gone():
    outbox.FOLDER.mkdir(parents=True)
    (outbox.FOLDER / "run1.json").touch()  # as the lock makes it
    assert list(outbox.waiting()) == []
    assert not list(outbox.FOLDER.iterdir())
