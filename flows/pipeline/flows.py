"""One Prefect flow a stage, called by the stage's name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from prefect import Flow, flow

from flows.pipeline.execution import execute
from flows.pipeline.prefect_state import untagged
from flows.project.nodes import STAGES, Node


def _flow_of(stage: str) -> Flow[..., Any]:
    def run(arm: str | None = None) -> dict[str, float]:
        """Run the stage, or one arm of it; returns its metrics."""
        with untagged():
            return execute(Node(stage, arm))

    return flow(name=stage, persist_result=False, validate_parameters=False)(run)


FLOWS: Mapping[str, Callable[..., Any]] = MappingProxyType({stage: _flow_of(stage) for stage in STAGES})
