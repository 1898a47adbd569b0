"""What a pipeline makes of tasks that did not come to their end."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from uuid import uuid4

from prefect.futures import PrefectConcurrentFuture
from prefect.states import Completed, Crashed, Failed, Pending

from flows.pipeline import run
from flows.project.nodes import Node
from tests.waiting import PATIENCE_S


def test_the_server_is_not_asked_over_and_over_whether_a_task_has_ended(monkeypatch):
    class Task(PrefectConcurrentFuture):
        @property
        def state(self):
            assert self._final_state, "a request"
            return self._final_state

    looks, under_way = [], threading.Event()

    def looked():
        looks.append(None)
        if len(looks) == 3:
            under_way.set()

    monkeypatch.setattr(run.channel, "abandoned", looked)
    last = Pending(name="NotReady")  # what a task is left in whose inputs failed
    with ThreadPoolExecutor(1) as pool:
        task = Task(uuid4(), pool.submit(lambda: under_way.wait(PATIENCE_S) and last))
        assert run._last_state(task) is last
    assert len(looks) >= 3


def test_a_task_that_failed_for_another_reason_than_its_stage_s_does_not_pass_for_made():
    execution = SimpleNamespace(failed={})
    fault = ConnectionError("MLflow does not answer")
    run._note_failure(Node("dataset"), Completed(), execution)
    run._note_failure(Node("verifier"), Failed(data=run._Skipped("another failed")), execution)
    assert not execution.failed
    run._note_failure(Node("teacher"), Failed(data=fault), execution)
    run._note_failure(Node("reflow"), Crashed(message="its thread died"), execution)
    assert execution.failed[Node("teacher")] is fault
    assert "its thread died" in str(execution.failed[Node("reflow")])
