"""What a pipeline makes of tasks that did not come to their end."""

from types import SimpleNamespace

from prefect.states import Completed, Crashed, Failed, Pending, Running

from flows.pipeline import run
from flows.project.nodes import Node


def test_a_task_whose_inputs_failed_is_not_waited_for():
    assert run._has_ended(Pending(name="NotReady"))
    assert run._has_ended(Failed())
    assert not run._has_ended(Pending())
    assert not run._has_ended(Running())


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
