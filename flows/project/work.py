"""What a node's execution is asked to do, and where its unfinished work lies."""

from pathlib import Path

from flows.project.nodes import STAGES, Node, Params
from flows.runtime.environment import HOME
from stages.io.job import Job

FOLDER = HOME / "work"
"""<node>/<key>: of one node as certain inputs, parameters and code make it. A store has the same under work/."""


def job(node: Node, params: Params) -> Job:
    """All that decides `node`'s result, its inputs in data/; whoever executes it says where else they lie, and how."""
    return Job(
        stage=node.stage,
        arm=node.arm,
        seed=node.seed(params),
        section=node.section(params),
        inputs=dict(STAGES[node.stage].inputs(params, node.arm)),
        context=dict(STAGES[node.stage].context(params)),
    )


def key(node: Node, params: Params) -> str | None:
    """The key of `node`'s work as things are now; None where an input is not made, so that nobody can tell."""
    asked = job(node, params)
    if all(Path(folder, "manifest.json").is_file() for folder in asked.inputs.values()):
        return asked.key()
    return None
