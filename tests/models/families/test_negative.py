"""A prompt to lead away from, named when a picture is drawn, is read as a family's pipeline reads a negative one."""

from dataclasses import replace

import pytest
import torch

from stages.models import TextTable
from stages.models.pretrained import PipelineText, Pretrained
from stages.models.table import joined
from stages.samplers.prompted import Prompted
from tests.models.families import tiny
from tests.models.families.test_contract import FAMILIES, Rig, gap, rig

__all__ = ["rig"]  # the fixture
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rig", FAMILIES, indirect=True)
def test_guidance_leads_away_from_a_prompt_as_from_a_stated_one(rig: Rig) -> None:
    """One that is named when a picture is drawn, and the checkpoint's own `negative_prompt`."""
    prompts, away = ["", tiny.PROMPTS[0]], "red"
    if rig.name == "flux2_klein":
        with pytest.raises(ValueError, match=r"negative_prompt: .* knows none but the empty one"):
            rig.encoder.away_from(away)
        return
    told = joined([rig.encoder.encode(prompts), rig.encoder.away_from(away)])
    stated = replace(rig.at, options=replace(rig.at.options, negative_prompt=away))
    own = TextTable(prompts, PipelineText(stated, "cpu").encode(prompts))
    x, t, cond = rig.noise(1), torch.tensor([0.6]), torch.tensor([[1]])
    with torch.no_grad():
        named = Prompted(Pretrained(rig.net.body, TextTable([*prompts, away], told), rig.at), cond, 3.0, 2 * cond)(x, t)
        ours = Prompted(Pretrained(rig.net.body, own, stated), cond, 3.0)(x, t)
        empty = Prompted(rig.net, cond, 3.0)(x, t)
    assert gap(named, ours) < 2e-6
    assert gap(named, empty) > 1e-4
