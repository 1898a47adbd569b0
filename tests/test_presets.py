"""Every preset's stages run, in one plain process, with budgets cut to a step or two."""

from pathlib import Path

import pytest

from flows.project.graph import nodes
from stages.io import artefacts
from tests.composed import params_of
from tests.plain import run_all

ROOT = Path(__file__).parents[1]
SHORT = {
    "iterations": 2,
    "warmup": 1,
    "batch_size": 8,
    "width": 8,
    "num_layers": 1,
    "num_heads": 1,
    "num_train": 512,
    "num_test": 48,
    "num_trajectories": 32,
    "shard_size": 16,
    "num_pairs": 16,
    "prompts_per_iteration": 2,
    "group_size": 3,
    "num_samples": 16,
    "straightness_samples": 16,
    "straightness_steps": 4,
    "rollout_steps": 4,
    "replicates": 1,
}
FEW = {"batch_size": 512, "teacher_nfe": [1, 2], "guidance_nfe": 2, "guidance_scales": [1.0, 2.0], "fd_repeats": 1}
"""Of evaluate, where a preset says them: of the whole pipeline, what a batch costs beside its samples adds up."""


def shortened(section, sizes=SHORT):
    """The section with every budget in it cut down."""
    if not isinstance(section, dict):
        return section
    return {
        key: value if key == "pictures" else sizes[key] if key in sizes else shortened(value, sizes)
        for key, value in section.items()  # a word needs a picture's whole width
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["experiment=digits_full"],
        ["experiment=gmm"],
        [
            *("experiment=shapes", "distill.arms.tdm1.nfe=1"),
            *("network.channels=[8, 16]", "network.head_dim=8", "network.text_width=8"),
        ],
        ["experiment=shapes_hard", "network.channels=[8, 8, 16]", "network.head_dim=8", "network.text_width=8"],
        [
            *("experiment=words", "teacher.network.channels=[8, 16]", "teacher.network.head_dim=8"),
            "teacher.network.text_width=8",
        ],
        ["experiment=masked"],
        ["experiment=uniform_state", "evaluate.distill_nfe.duo=[1]"],
        ["experiment=companions"],
        ["experiment=bench_rl_students"],
    ],
    ids=lambda words: words[0].removeprefix("experiment="),
)
def test_the_stages_of_a_preset_run(words, tmp_path, monkeypatch):
    composed = shortened(params_of(*words))
    composed["evaluate"] |= {key: value for key, value in FEW.items() if key in composed["evaluate"]}
    composed["teacher"].get("method", composed["teacher"])["nfe"] = 4  # of its pictures
    composed["encode"]["shard_size"] = 4096  # each reads all prompts
    monkeypatch.chdir(tmp_path)
    run_all(composed, tmp_path)
    assert all(artefacts.verify(Path(node.folder))["stage"] == node.stage for node in nodes(composed))
    assert (tmp_path / "data" / "evaluate" / "report.html").stat().st_size > 10_000
