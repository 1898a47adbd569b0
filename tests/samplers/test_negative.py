"""Negative prompts: guidance leads away from them in the empty one's place, and NASA without guidance, in attention."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from stages.core.config import check
from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student
from stages.models.conditioning import OneHot
from stages.models.space import Points
from stages.samplers import drive
from stages.samplers.fields import field_of, over
from stages.samplers.grid import build
from stages.samplers.prompted import Prompted
from stages.samplers.schedules import uniform
from stages.samplers.spec import Sampler
from stages.samplers.student import Noise, draw
from stages.steering import Steered
from tests.samplers.blocks import PROMPTS, transformer
from tests.samplers.rigs import choice

NET = transformer()
X = torch.randn(2, 1, 4, 4, generator=stream(0, "negative"))
T = torch.full((2,), 0.5)
COND, OTHER = torch.tensor([[1], [2]]), torch.tensor([[3], [1]])
GRID = build(LINEAR, uniform(2))


def steered(weight, cond=COND, negative=OTHER, net=NET, x=X):
    return over(field_of({"name": "nasa", "weight": weight}))(Prompted(net, cond, negative=negative), GRID, x)


def test_guidance_leads_away_from_the_negative_prompt_everywhere():
    with_prompt, other, empty = NET(X, T, COND), NET(X, T, OTHER), NET(X, T, 0 * COND)
    prompted, plain = Prompted(NET, COND, 3.0, OTHER), Prompted(NET, COND, 3.0)
    torch.testing.assert_close(prompted(X, T), other + 3 * (with_prompt - other))
    torch.testing.assert_close(plain(X, T), empty + 3 * (with_prompt - empty))
    torch.testing.assert_close(torch.cat(prompted.both(X, T)), torch.cat([with_prompt, other]))
    opened = prompted.opened(X, T)
    torch.testing.assert_close(prompted.closed(opened.after(range(3))), prompted(X, T))
    torch.testing.assert_close(prompted.take(torch.tensor([1]))(X[1:], T[1:]), prompted(X, T)[1:])


def test_samples_are_drawn_away_from_it_in_batches_of_any_size():
    model = Student(NET, even(3, guidance=2.0), Points((1, 4, 4)), OneHot(PROMPTS))
    rows, noise = torch.tensor([[1], [2], [3]]), Noise(0, "n")
    negative = torch.tensor([[2], [3], [1]])
    whole, parts = (draw(model, rows, noise, batch_size=size, negative=negative) for size in (3, 2))
    torch.testing.assert_close(whole, parts)
    assert not torch.allclose(whole, draw(model, rows, noise))
    torch.testing.assert_close(draw(model, rows, noise, negative=0 * rows), draw(model, rows, noise))


def test_nasa_of_no_weight_is_the_network_to_the_last_bit():
    assert torch.equal(steered(0.0).velocity(X, 0), Prompted(NET, COND)(X, torch.ones(2)))


def one_block():
    """Whose answer shows what its only block makes of the tokens."""
    net = copy.deepcopy(NET)
    net.body.transformer_blocks = net.body.transformer_blocks[-1:]
    return net


def test_of_the_prompt_itself_the_part_from_words_is_scaled():
    """K- = K+ and V- = V+: what tokens take from words is (1 - weight) of what it was, and the rest is as it was."""
    net, weight, seen = one_block(), 0.3, []
    joint = net.body.transformer_blocks[0].attn
    handle = joint.to_out[0].register_forward_hook(lambda _layer, given, _made: seen.append(given[0]))
    steered(weight, negative=COND, net=net).velocity(X, 0)
    handle.remove()
    [found] = seen
    opened = Prompted(net, COND).opened(X, torch.ones(2))
    block = net.body.transformer_blocks[0]
    tokens = block.norm1(opened.tokens, emb=opened.time)[0]
    words = block.norm1_context(opened.words, opened.time)
    split = lambda made: made.unflatten(2, (joint.heads, -1)).transpose(1, 2)  # noqa: E731
    query, key, value = (split(layer(tokens)) for layer in (joint.to_q, joint.to_k, joint.to_v))
    told, said = split(joint.add_k_proj(words)), split(joint.add_v_proj(words))
    chances = (query @ torch.cat([key, told], 2).transpose(2, 3) / math.sqrt(query.shape[-1])).softmax(-1)
    count = key.shape[2]
    made = chances[..., :count] @ value + (1 - weight) * chances[..., count:] @ said
    torch.testing.assert_close(found, made.transpose(1, 2).flatten(2))
    torch.testing.assert_close(
        F.scaled_dot_product_attention(query, torch.cat([key, told], 2), torch.cat([value, said], 2)),
        chances @ torch.cat([value, said], 2),
    )


def test_each_sample_is_led_away_from_its_own_and_the_more_the_farther():
    plain = Prompted(NET, COND)(X, torch.ones(2))
    gaps = [(steered(weight).velocity(X, 0) - plain).norm().item() for weight in (0.1, 0.2, 0.4)]
    assert 0 < gaps[0] < gaps[1] < gaps[2]
    other = steered(0.3, negative=torch.tensor([[3], [3]])).velocity(X, 0)
    both = steered(0.3).velocity(X, 0)
    torch.testing.assert_close(other[0], both[0])
    assert not torch.allclose(other[1], both[1])
    alone = steered(0.3, COND[1:], OTHER[1:], x=X[1:]).velocity(X[1:], 0)
    torch.testing.assert_close(alone[0], both[1])


def test_it_counts_what_it_does_beside_a_call():
    """The negative words' way through the blocks, and a second look of all that looks."""
    field = steered(0.3)
    drive(field, X, "euler")
    opened = NET.opened(X, T, COND)
    count, words = opened.tokens.shape[1], opened.words.shape[1]
    more = 0
    for number, block in enumerate(NET.body.transformer_blocks):
        joint = block.attn
        layers = [joint.add_q_proj, joint.add_k_proj, joint.add_v_proj]
        layers += [] if joint.context_pre_only else [joint.to_add_out]
        more += words * sum(layer.weight.numel() for layer in layers)
        more += opened.looking_work(number, count + words, count + words)
        if not block.context_pre_only:
            more += words * sum(each.weight.numel() for each in block.ff_context.modules() if hasattr(each, "weight"))
    assert field.cost == pytest.approx(2 * (1 + opened.share(more)))
    assert 1 < field.cost / 2 < 2


def test_what_cannot_be_is_refused():
    field = {"name": "nasa", "weight": 0.3}
    stated = {"rule": {"name": "euler"}, "schedule": {"name": "uniform", "steps": 1}, "field": field}
    with pytest.raises(ValueError, match="field=nasa leads away from a negative prompt, and none is named"):
        steered(0.3, negative=None)
    with pytest.raises(ValueError, match="field=nasa: guidance=2 leads away from the negative prompt already"):
        check(Sampler, stated | {"guidance": 2.0}, "sampler")
    steered_too = {"of": "teacher", "sampler": stated | {"guidance": 1.0}, "steering": choice("steering", "minority")}
    with pytest.raises(ValueError, match="field=nasa leads away from a negative prompt, and a stage names none"):
        check(Steered, steered_too, "steered")
    with pytest.raises(ValueError, match="a function is not called block by block"):
        over(field_of(field))(Prompted(lambda x, _t, _c: x, COND, negative=OTHER), GRID, X)
