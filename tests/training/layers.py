"""What a training's networks do, counted at their layers."""

from collections import Counter
from typing import Any

from torch import nn

from stages.models.discriminator import Discriminator
from stages.models.transformer import VelocityTransformer
from stages.training.loop import Trainer


class Layers:
    """An independent count, at a layer half-way up every network and at its last, by whatever name they are called."""

    def __init__(self, made: Trainer) -> None:
        self.seen: Counter[str] = Counter()
        for role, outer in made.world.nets.items():
            net, *others = [m for m in outer.modules() if isinstance(m, VelocityTransformer | Discriminator)]
            if isinstance(net, Discriminator):
                for head in (net, *others):  # of a pool
                    self.watch(f"{role}/forward", f"{role}/backward", head.body)
                continue
            carried = [other for other in others if other is net.companion]
            assert others == carried
            for other in carried:  # all of which is a part of the network
                self.watch(f"{role}/half", f"{role}/back half", other.body.proj_out)
            body = getattr(net.body, "inner", net.body)  # of one that is asked for several times
            half = body.transformer_blocks[(len(body.transformer_blocks) + 1) // 2 - 1]
            self.watch(f"{role}/half", f"{role}/back half", half)
            self.watch(f"{role}/forward", f"{role}/backward", body.proj_out)

    def watch(self, forward: str, backward: str, layer: nn.Module) -> None:
        def ahead(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            answer = output[-1] if isinstance(output, tuple) else output
            self.seen[forward] += len(answer)
            if answer.requires_grad:
                answer.register_hook(lambda gradient: self.seen.update({backward: len(gradient)}))

        layer.register_forward_hook(ahead)

    def counts(self, role: str, *, head: bool) -> dict[str, int]:
        whole = {kind: self.seen[f"{role}/{kind}"] for kind in ("forward", "backward")}
        part = {"forward": self.seen[f"{role}/half"], "backward": self.seen[f"{role}/back half"]}
        return {**whole, **{f"{kind}_part": 0 if head else part[kind] - whole[kind] for kind in whole}}
