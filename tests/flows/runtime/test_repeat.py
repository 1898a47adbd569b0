"""What is done again and again, and once more at the end, whatever the end."""

import threading

import pytest

from flows.runtime.repeat import repeated
from tests.waiting import wait_for


def test_it_is_done_until_the_end_and_once_more():
    where = []
    with repeated(lambda: where.append(threading.current_thread().name), 0.01, "again"):
        wait_for(lambda: len(where) >= 2)
    assert set(where[:-1]) == {"again"}
    assert where[-1] == threading.current_thread().name
    assert "again" not in {thread.name for thread in threading.enumerate()}


def test_it_ends_with_work_that_fails():
    done = []
    with pytest.raises(KeyError), repeated(lambda: done.append(1), 3600.0, "again"):
        raise KeyError
    assert done == [1]
