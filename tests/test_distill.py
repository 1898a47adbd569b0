"""What an arm is refused for before it does anything, told from what is known of its inputs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages import distill
from stages.core.rng import stream
from stages.core.spec import even
from stages.io.expected import Expected, Outline
from stages.io.job import Job
from stages.models import Student, sketch
from stages.models.conditioning import OneHot
from stages.models.network import seeded_build
from stages.models.space import UniformTokens
from stages.models.tokens import likeliest
from stages.models.transformer import TransformerConfig
from tests.composed import params_of
from tests.training.words import table

pytestmark = pytest.mark.slow

PARAMS = Path(__file__).parents[1] / "params"
KNOWN = {
    "dataset": None, "encode": None, "teacher": Expected(model="trained"), "init": Expected(model="trained"),
    "data": Expected(has_pairs=True, searched=64),
}  # fmt: skip


def expected(method: str, *words: str, **inputs: Expected) -> Expected:
    words = ("experiment=smoke", f"+distiller@distill.arms.x={method}", *(f"distill.arms.x.{word}" for word in words))
    section: dict[str, Any] = params_of(*words)["distill"]["arms"]["x"]
    section.pop("replicates")
    job = Job(stage="distill", arm="x", seed=0, section=section, inputs={name: name for name in KNOWN})
    return distill.expect(distill.configure(job), job, KNOWN | inputs)


def test_a_network_cannot_be_moved_towards_one_of_another_size() -> None:
    def sized(width: int) -> Expected:
        size = TransformerConfig(kind="transformer", width=width, num_layers=2, num_heads=2, patch_size=2)
        return Expected(model="trained", sketch=sketch.trained(size, (1, 8, 8)))

    for size in (32, 64):
        assert expected("dmd2", teacher=sized(64), init=sized(size)).model == "trained"
    assert expected("dmd2", "fake_follows=0.1", teacher=sized(64), init=sized(64)).model == "trained"
    with pytest.raises(ValueError, match="moves the weights of its fake towards those of its student"):
        expected("dmd2", "fake_follows=0.1", teacher=sized(64), init=sized(32))


def test_truncation_goes_on_from_a_student() -> None:
    student = Expected(model="trained", is_student=True)
    assert expected("tcm", init=student).model == expected("ect").model == "trained"
    with pytest.raises(
        ValueError, match=r"distill\.arms\.x\.init=data/teacher: ect goes on from a student of its kind"
    ):
        expected("tcm")


def outline(*prompts: str) -> Expected:
    known = Outline(
        kind="prompts", sample_shape=(1, 8, 8), attributes=("prompt",), num_train=9, num_test=9, num_seen=9,
        prompts=frozenset(prompts),
    )  # fmt: skip
    return Expected(dataset=known)


def test_a_prompt_that_a_method_names_is_one_of_the_datasets_or_the_empty_one() -> None:
    words = "overrides=[{forget: a cat, show: ''}]"
    assert expected("sfd_unlearn", words, dataset=outline("a dog", "a cat")).model == "trained"
    assert expected("sfd_unlearn", words, dataset=Expected()).model == "trained", "which may have it"
    message = r"distill\.arms\.x: no prompt of the text table is called 'a cat'; did you mean 'a bat'"
    with pytest.raises(ValueError, match=message):
        expected("sfd_unlearn", words, dataset=outline("a dog", "a bat"))


def test_what_goes_together_is_not_refused() -> None:
    assert expected("boss").model == expected("kd", "fresh=true").model == "trained"
    for sampler in (PLUS, STITCHED):
        assert expected("tdm", "companion=teacher", sampler).model == "trained"
    assert expected("speed_up_net").model == expected("speed_up_net", "companion=teacher").model == "trained"
    assert expected("flow_turbo").model == expected("learned_variance").model == "trained"
    assert expected("flow_turbo").model == expected("meanflow", "companion=teacher").model == "trained"


STEPS = "schedule: {name: uniform, steps: 2}, guidance: 1.0"
PLUS = f"sampler={{rule: {{name: distillation_plus, share: 0.1, first: 1, guidance: 1.0, going_on: ddim}}, {STEPS}}}"
STITCHED = f"sampler={{rule: {{name: euler}}, {STEPS}, field: {{name: t_stitch, share: 0.5}}}}"
TURBO = f"sampler={{rule: {{name: flow_turbo, heun: 1, refined: 1}}, {STEPS}}}"
NASA = f"sampler: {{rule: {{name: euler}}, {STEPS}, field: {{name: nasa, weight: 0.2}}}}"
DDGAN = "sampler={rule: {name: ddgan}, schedule: {name: uniform, steps: 2}, guidance: 1.0, field: null}"


@pytest.mark.parametrize(
    ("method", "words", "inputs", "message"),
    [
        (
            "kd",
            ["fresh=true"],
            {"init": Expected(model="checkpoint")},
            "fresh: a checkpoint's students have its network",
        ),
        ("boss", ["draw=null"], {}, "draw: boss trains on trajectories; say how they are drawn"),
        (
            "boss",
            [],
            {"data": Expected(has_pairs=True)},
            r"data=data/reflow: no steps were searched for; .*reflow\.search",
        ),
        ("boss", [], {"data": Expected(has_pairs=True, searched=16)}, "in a grid of 16, and this has 64"),
        ("boss", ["nodes=even", "nfe=3"], {}, "its 64 steps are no multiple of the student's 3"),
        ("tdm", ["num_students=4"], {"init": Expected(model="checkpoint")}, "asks one network for every prompt"),
        ("meanflow", ["num_students=4"], {}, "meanflow trains a network of two times, of which there is one"),
        ("oftsr", [], {"init": Expected(model="checkpoint")}, "no word for that; take a method of one time"),
        ("pi_flow", ["num_students=4"], {}, "pi_flow trains a network that answers a policy, of which there is one"),
        ("pi_flow", [], {"init": Expected(model="checkpoint")}, "a network that answers a policy, .*no word for that"),
        ("ddgan", ["num_students=4"], {}, "ddgan trains a network that is told noise, of which there is one"),
        ("ddgan", [], {"init": Expected(model="checkpoint")}, "a network that is told noise, .* no word for that"),
        (
            "pi_flow",
            [],
            {"init": Expected(model="trained", is_told=True)},
            "told pictures, and stays one network",
        ),
        (
            "tdm",
            ["num_students=4"],
            {"init": Expected(model="trained", is_told=True)},
            "told pictures, and stays one",
        ),
        (
            "flow_turbo",
            [],
            {"init": Expected(model="checkpoint")},
            "a network that carries another, .* no word for that",
        ),
        ("speed_up_net", ["num_students=4"], {}, "speed_up_net trains a network that reads negative prompts, of which"),
        (
            "speed_up_net",
            [],
            {"init": Expected(model="checkpoint")},
            "that reads negative prompts, .* no word for that",
        ),
        (
            "speed_up_net",
            [],
            {"init": Expected(model="trained", is_told=True)},
            "told pictures, and stays one network",
        ),
        ("speed_up_net", ["fresh=true"], {}, "fresh: speed_up_net trains a part alone, .*a new network has none"),
        (
            "speed_up_net",
            [],
            {"init": Expected(model="closed form")},
            "init=data/teacher: speed_up_net trains a part alone, .*a closed form has none; start from a model",
        ),
        (
            "speed_up_net",
            [],
            {"teacher": Expected(model="trained", tokens="masked")},
            "its teacher is of tokens that noise masks",
        ),
        (
            "flow_turbo",
            ["companion=teacher"],
            {},
            "companion=teacher: flow_turbo trains a network that the student carries",
        ),
        ("tdm", [PLUS], {}, "sampler: it asks another network too, and the student carries none; set companion"),
        ("tdm", [STITCHED], {}, "sampler: it asks another network too, and the student carries none"),
        ("tdm", ["companion=teacher", TURBO], {}, "rule=flow_turbo: for students of the method flow_turbo alone"),
        ("flow_turbo", [PLUS], {}, "what a student of flow_turbo carries is no teacher"),
        ("learned_variance", [TURBO], {}, "rule=flow_turbo: for students of the method flow_turbo alone"),
        ("flow_turbo", ["fresh=true"], {}, "fresh: flow_turbo trains a part alone, .*a new network has none"),
        (
            "learned_variance",
            [],
            {"init": Expected(model="closed form")},
            "init=data/teacher: learned_variance trains a part alone, .*a closed form has none; start from a model",
        ),
        ("learned_variance", ["nfe=1"], {}, "nfe=1: a single step is without noise"),
        ("msd", ["companion=teacher"], {}, "the student is one network of velocities then, and this is none"),
        (
            "tdm",
            ["companion=teacher"],
            {"teacher": Expected(model="closed form")},
            "companion=teacher: data/teacher is a closed form, and only networks that are trained here are carried",
        ),
        (
            "tdm",
            ["companion=teacher"],
            {"teacher": Expected(model="trained", is_told=True)},
            "companion=teacher: data/teacher is told pictures, and a companion is told none",
        ),
        ("kd", [f"draw={{num_pairs: 8, {NASA}}}"], {}, "field=nasa leads away from a negative prompt, and a stage"),
        ("tdm", [DDGAN], {}, "sampler.rule=ddgan: tdm trains a network that is told no noise; take another rule"),
    ],
)
def test_what_does_not_is_refused_by_name(
    method: str, words: list[str], inputs: dict[str, Expected], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        expected(method, *words, **inputs)


def test_a_new_student_of_tokens_is_of_the_same(tmp_path: Path) -> None:
    """As large as its words say, of the teacher's samples, and what noise does to them."""
    composed = params_of("experiment=uniform_state", "distill.arms.duo.fresh=true")
    section: dict[str, Any] = composed["distill"]["arms"]["duo"]
    section.pop("replicates")
    folder = str(tmp_path)
    job = Job(stage="distill", arm="duo", seed=0, section=section, inputs={"teacher": folder, "init": folder})
    cfg, space = distill.configure(job), UniformTokens((17, 8, 8))
    text = table(["a"])
    teacher = Student(seeded_build(1, cfg.common.network, space.shape, text), even(1), space, OneHot(["", "a"]))
    made = distill._initial(cfg.common, job, teacher, text)
    assert made.net is not teacher.net
    assert made.net.tokens == "uniform"
    x = likeliest(space.noise(2, stream(0, "x")))
    data = x - 0.5 * made.net(x, torch.full((2,), 0.5), torch.ones(2, 1, dtype=torch.int64))
    torch.testing.assert_close(data.sum(dim=1), torch.ones(2, 8, 8))
