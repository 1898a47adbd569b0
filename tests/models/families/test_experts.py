"""A checkpoint of two networks: each row goes to one of them, and a student tuned whole is both."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student, TextTable, export, load, save
from stages.models.experts import Experts, by_expert
from stages.models.latents import Latents
from stages.models.pretrained import PipelineText, build
from stages.samplers.student import Noise, draw
from tests.models.families import stock, tiny
from tests.models.families.test_contract import gap


def test_a_row_is_answered_by_the_network_of_its_time() -> None:
    body = Experts({"one": nn.Linear(1, 1), "two": nn.Linear(1, 1)}, 0.5)
    t, x = torch.tensor([0.1, 0.9, 0.5, 0.2]), torch.arange(4.0)[:, None]

    def call(part: nn.Module, rows: Tensor | slice) -> Tensor:
        return part(x[rows])

    expected = torch.stack([(body.one if now >= 0.5 else body.two)(row) for now, row in zip(t, x, strict=True)])  # type: ignore[operator]
    torch.testing.assert_close(by_expert(body, t, call), expected)
    torch.testing.assert_close(by_expert(body, t[:1], lambda part, rows: part(x[:1][rows])), expected[:1])


@pytest.mark.slow
def test_both_networks_tuned_whole_are_loaded_by_stock_diffusers(tmp_path: Path) -> None:
    at = export.found(str(tiny.saved("wan22_14b", tmp_path / "checkpoint")), tiny.options("wan22_14b"))
    prompts, encoder = ["", *tiny.PROMPTS], PipelineText(at, "cpu")
    table = TextTable(prompts, encoder.encode(prompts))
    net, rng = build(at, table), stream(0, "tuned")
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=rng)
    made = Student(net, even(4), Latents.of(at), encoder)
    save(tmp_path / "model", made)
    again = load(tmp_path / "model", table)
    cond, noise = torch.tensor([[2]]), Noise(0, "test")
    ours = draw(again, cond, noise)
    assert torch.equal(ours, draw(made, cond, noise))
    rig = type("Rig", (), {"name": "wan22_14b", "space": again.space})
    assert gap(ours, stock.sampled(tmp_path / "model", rig, tiny.PROMPTS[1], noise)) < 1e-5
