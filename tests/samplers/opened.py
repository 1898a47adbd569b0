"""A small transformer that is called within its blocks, and the work of that."""

import torch

from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.samplers.fields import field_of, over
from stages.samplers.grid import build
from stages.samplers.prompted import Prompted
from stages.samplers.schedules import uniform
from tests.samplers.blocks import transformer
from tests.samplers.rigs import choice

NET = transformer()
X = torch.randn(2, 1, 4, 4, generator=stream(0, "attention"))
COND = torch.tensor([[1], [2]])
T = torch.full((2,), 0.5)
GRID = build(LINEAR, uniform(8))
OPENED = NET.opened(X, T, COND)
NUM = 3
WORK = sum(OPENED.attention_work(n, 4, 4) + OPENED.other_work(n, 4) for n in range(NUM))


def field(name, guidance=1.0, net=NET, **knobs):
    return over(field_of({**choice("field", name), **knobs}))(Prompted(net, COND, guidance), GRID, X)


def share(*, attention=0, other=0):
    """Of all work, that of so many calls' attention and of all else, of four tokens."""
    parts = [OPENED.attention_work(n, 4, 4) for n in range(NUM)], [OPENED.other_work(n, 4) for n in range(NUM)]
    return (attention * sum(parts[0]) + other * sum(parts[1])) / WORK
