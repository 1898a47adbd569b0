"""On a CUDA device: everything lands there, bfloat16 stays near float32, a short training learns and resumes."""

import pytest
import torch

from stages.core.rng import normal_at
from stages.core.spec import even
from stages.distillers import tdm
from stages.models import Student
from stages.models.conditioning import OneHot
from stages.models.mixture import GaussianMixture
from stages.models.network import seeded_build
from stages.models.space import Pixels, Points
from stages.models.transformer import TransformerConfig
from stages.samplers.student import Noise, draw
from stages.training import checkpoint, flow_matching
from stages.training.budget import Budget
from stages.training.levels import Uniform
from stages.training.loop import Trainer
from stages.training.roles import Start
from tests.training.words import rows, table

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
PROMPTS = ["a bold left-slanted 7", "a thin upright 3"]
SPACE = Pixels((1, 8, 8))
SIZE = TransformerConfig(kind="transformer", width=64, num_layers=3, num_heads=4, patch_size=2)
METHOD = flow_matching.Config(
    lr=2e-3, condition_dropout=0.1, times=Uniform(name="uniform"), latent=0.0, perturbation=0.0, nfe=8
)
TDM = tdm.Config(
    guidance_levels="shared",
    method="tdm", nfe=1, guidance=1.0, interval="own", t_min=0.02, t_max=0.99, fake_target="sample", huber_c=1e-3,
    student_lr=2e-4, fake_lr=1e-3, betas=(0.0, 0.95),
)  # fmt: skip


def trainer(method=flow_matching, cfg=METHOD, precision="float32", device="cuda"):
    net = seeded_build(0, SIZE, (1, 8, 8), table(PROMPTS))
    budget = Budget(iterations=40, ema=0.9, clip=1.0, warmup=0, final_lr=1.0, precision=precision, slices=1)
    return Trainer(method, cfg, budget, Start(init=net.to(device), teacher=net, space=SPACE), seed=0, device=device)


def batch(device="cuda"):
    x0 = normal_at(0, "x0", 0, 64, (1, 8, 8)).to(device)
    return {"x0": x0, "cond": rows(torch.arange(64) % 2).to(device)}


def test_networks_words_and_averages_live_on_the_device():
    made = trainer()
    for net in [*made.world.nets.values(), made.weights.average]:
        assert {p.device.type for p in net.parameters()} == {"cuda"}
    made.step(batch())
    assert made.weights.nets["student"].text.features["hidden"].device.type == "cuda"


def test_the_same_noise_gives_the_same_samples_as_on_the_cpu():
    net = seeded_build(0, SIZE, (1, 8, 8), table(PROMPTS))
    torch.nn.init.normal_(net.body.proj_out.weight, std=0.1)
    here = draw(Student(net, even(4), SPACE, OneHot([""])), rows([0, 1]), Noise(0, "gpu"))
    there = draw(Student(net.cuda(), even(4), SPACE, OneHot([""])), rows([0, 1]), Noise(0, "gpu")).cpu()
    torch.testing.assert_close(there, here, atol=2e-3, rtol=2e-3)  # tf32 is off; kernels order sums differently


def test_an_exact_mixture_agrees_with_the_cpu():
    truth = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0, 0.0], [0.5, 1.0]]), torch.tensor([0.2, 0.3]))
    space = Points((2, 1, 1))
    here = draw(Student(truth, even(8), space, truth.encoder), rows([0, 1]), Noise(0, "mixture"))
    there = draw(Student(truth.cuda(), even(8), space, truth.encoder), rows([0, 1]), Noise(0, "mixture")).cpu()
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("method", "cfg"), [(flow_matching, METHOD), (tdm, TDM)], ids=["flow_matching", "tdm"])
def test_bfloat16_stays_near_float32(method, cfg):
    losses = {}
    for precision in ("float32", "bfloat16"):
        made = trainer(method, cfg, precision)
        torch.nn.init.normal_(made.weights.nets["student"].body.proj_out.weight, std=0.05,
                              generator=torch.Generator("cuda").manual_seed(0))  # fmt: skip
        losses[precision] = float(made.step(batch())[f"{made.method.phases(cfg)[0].name}/loss"])
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=2e-2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_short_training_learns(precision, tmp_path):
    made, losses = trainer(precision=precision), []
    fixed = batch()
    made.run(lambda _i: fixed, resume=tmp_path, sink=lambda _s, m: losses.append(m["flow/loss"]))
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.dtype == torch.float32 for p in made.weights.average.parameters()), "averages stay in float32"


def test_a_resumed_training_is_bitwise_the_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(True)
    whole, first, second = trainer(), trainer(), trainer()
    fixed = batch()
    whole.run(lambda _i: fixed, resume=tmp_path / "none", sink=lambda *_: None)
    for _ in range(20):
        first.step(fixed)
    checkpoint.State.of(first).write(tmp_path / "resume")
    second.run(lambda _i: fixed, resume=tmp_path / "resume", sink=lambda *_: None)
    for a, b in zip(whole.weights.average.parameters(), second.weights.average.parameters(), strict=True):
        assert torch.equal(a, b)
