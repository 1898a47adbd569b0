"""Feynman-Kac correctors: the law that guidance, sharpening or a reward is taken to give, by weights that are exact.

Source: Skreta et al. 2025 (arXiv:2503.02819), Propositions 3.1 to 3.4; `corrected.py` has the rates.
Follows: https://github.com/martaskrt/fkc-diffusion, re-derived for the flow path; differs: resampled by effective
sample size, weights are not clipped, and a last weight makes up for the step to data.
"""

import math
from typing import Any, Literal

from torch import Tensor

from stages import rewards
from stages.core.config import config
from stages.core.spec import SamplerSpec
from stages.steering.corrected import Guide, Law, Target, Tilt, simulate
from stages.steering.particles import Particles, Resampling
from stages.steering.rewarded import Rewards, Several
from stages.steering.task import Found, Task, picked


@config
class FKC:
    """Its knobs."""

    name: Literal["fkc"]
    reward: Rewards
    """What a tilt follows, so that it needs a gradient; otherwise it only judges."""
    particles: Several
    target: Target
    resampling: Resampling
    pick: Literal["draw", "best"]

    def __post_init__(self) -> None:
        follows(self.target, self.reward)

    def serves(self, spec: SamplerSpec) -> str | None:
        """The memoryless process, in three steps or more, without guidance of its own where that is the target."""
        if isinstance(self.target, Guide) and spec.guidance != 1:
            return f"its target guides already, and the sampler has guidance={spec.guidance:g}; take 1"
        return why_not_memoryless(spec)

    def search(self, task: Task) -> Found:
        """As many calls as the particles alone take, twice as many for `guide`; rewards at each step for `tilt`."""
        return ended(task, self.pick, *self.cloud(task))

    def cloud(self, task: Task) -> tuple[Tensor, Particles]:
        """All particles, with their weights."""
        particles = Particles(task, self.particles, self.resampling)
        return simulate(task, Law(task, self.target, task.owners(self.particles)), particles), particles


def ended(task: Task, pick: str, x0: Tensor, particles: Particles) -> Found:
    """The sample of each prompt among particles x0 [B * K, ...]."""
    reward = task.judge(x0, task.owners(particles.log_weights.shape[1]))
    one = particles.one() if pick == "draw" else reward.view(task.count, -1).argmax(dim=1)
    return Found(picked(x0, one), picked(reward, one), particles.least, particles.resamplings)


def follows(target: object, reward: dict[str, Any]) -> None:
    """ValueError for a tilt by a reward without a gradient."""
    rigid = rewards.rigid(rewards.terms(reward, "reward"))
    if isinstance(target, Tilt) and rigid:
        raise ValueError(f"reward.{rigid[0].name}: has no gradient by the image; a tilt takes soft_verifier, say")


def why_not_memoryless(spec: SamplerSpec) -> str | None:
    """Why a sampler's process is not the one that weights are known for."""
    rule = spec.rule
    if rule["name"] != "flow_sde" or not math.isclose(rule["noise_level"], math.sqrt(2), rel_tol=1e-3):
        return "its weights are those of the memoryless process; take rule: {name: flow_sde, noise_level: 1.4142}"
    return None if spec.num_steps >= 3 else "it corrects inner steps; take a schedule of three or more"
