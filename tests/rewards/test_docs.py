"""What docs/rewards.md and docs/data.md tell people to compose is composed as it stands, and passes every check."""

import json
import re
import shlex
from pathlib import Path

import pytest

from flows.pipeline import validation
from stages.metrics.table import METRICS
from stages.rewards import REWARDS
from tests.composed import params_of
from tests.models.families import tiny
from tests.tiny_pretrained import save_clip, save_dinov2, save_head

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOCS = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("rewards.md", "data.md")}
COMMANDS = [
    (name, found)
    for name, text in DOCS.items()
    for found in re.findall(r"^\$ fewstep compose (.*)$", text, re.MULTILINE)
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    save_clip(root / "weights/clip")
    save_dinov2(root / "weights/dinov2")
    save_head(root / "weights/aesthetic.safetensors")
    tiny.saved("sd15", root / "sd")
    (root / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"a thing {i}"}) for i in range(20)))
    return root


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=range(len(COMMANDS)))
def test_what_is_typed_is_composed_and_passes_every_check(name, command, weights, monkeypatch):
    if "dataset=folder" in command:
        pytest.skip("tests/test_folder.py has pictures for it")
    monkeypatch.chdir(weights)
    words = shlex.split(command.replace("/data/prompts.jsonl", "prompts.jsonl").replace("/models/sd15", "sd"))
    content = params_of(*words)
    assert validation.faults(content) == []


def test_there_are_commands_to_try():
    assert len(COMMANDS) >= 7


def test_every_reward_and_metric_is_told_of():
    for table in (REWARDS, METRICS):
        assert [kind for kind in table if f"| `{kind}` |" not in DOCS["rewards.md"]] == []
