"""Networks keep their promises: prompts are strings, files round-trip, stock diffusers gives the same images."""

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers import scheduling_flow_match_euler_discrete

from stages.core.config import check
from stages.core.guidance import guided
from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student, TextTable, encoder_of, load, save
from stages.models.conditioning import OneHot
from stages.models.network import seeded_build, seeded_teacher
from stages.models.space import Pixels, Points
from stages.models.text import Clip, Convolutional
from stages.models.transformer import TransformerConfig
from stages.samplers import RULES, rule_of, sample
from stages.samplers.distillation_plus import ASKS_BESIDE
from stages.samplers.flow_map import OF_AVERAGES
from stages.samplers.of_tokens import OfTokens
from stages.samplers.program import program
from stages.samplers.spec import Sampler
from stages.samplers.student import Noise, draw
from tests.models.stock import stock_images
from tests.samplers.rigs import choice

PROMPTS = ["a bold left-slanted 7", "a thin upright 3"]
CLIP = Clip(kind="clip", num_layers=1)
NEIGHBOURS = Convolutional(kind="convolutional", num_layers=1, kernel_size=3)
TINY = TransformerConfig(kind="transformer", width=16, num_layers=2, num_heads=2, patch_size=2)


SPACE = Pixels((1, 4, 4))
ROWS = torch.tensor([[1], [2]])


def teacher():
    """A network that learns its text encoder."""
    return seeded_teacher(0, TINY, SPACE.shape, ["", *PROMPTS], CLIP)


@pytest.fixture(scope="module")
def net():
    made = teacher()
    torch.nn.init.normal_(made.body.proj_out.weight, std=0.3, generator=stream(0, "test"))  # starts at zero
    return made.eval().requires_grad_(False)


def student(net, spec):
    return Student(net, spec, SPACE, net.text.frozen())


def test_the_same_seed_builds_the_same_network_and_leaves_the_global_stream(net):
    before = torch.get_rng_state()
    twin = teacher()
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(twin.body.pos_embed.proj.weight, net.body.pos_embed.proj.weight)


def test_prompts_change_the_velocity_and_time_does_too(net):
    x, t = torch.ones(1, 1, 4, 4), torch.tensor([0.5])
    seven, three = ROWS[:1], ROWS[1:]
    assert not torch.allclose(net(x, t, seven), net(x, t, three))
    assert not torch.allclose(net(x, t, seven), net(x, t / 2, seven))


def test_unknown_words_and_long_prompts_are_refused(net):
    with pytest.raises(ValueError, match=r"does not know the word 'green'; it knows: 3, 7, a, bold"):
        net.text.frozen().encode(["a green 7"])
    with pytest.raises(ValueError, match="at most 4"):
        net.text.frozen().encode(["a bold thin upright 7"])


def test_features_are_those_of_the_lower_half(net):
    x, t, cond = torch.randn(3, 1, 4, 4, generator=stream(0, "x")), torch.rand(3), torch.zeros(3, 1, dtype=torch.int64)
    seen = []
    handle = net.body.transformer_blocks[0].register_forward_hook(lambda _m, _a, out: seen.append(out[1]))
    net(x, t, cond)
    handle.remove()
    torch.testing.assert_close(net.features(x, t, cond), seen[0])


def test_guidance_one_is_the_velocity_itself_and_two_extrapolates(net):
    x, t, cond = torch.ones(2, 1, 4, 4), torch.full((2,), 0.3), ROWS
    assert guided(net, 1.0) is net
    with_prompt, without = net(x, t, cond), net(x, t, torch.zeros_like(cond))
    torch.testing.assert_close(guided(net, 2.0)(x, t, cond), 2 * with_prompt - without)


def stated(rule, schedule, guidance=1.0, **field):
    return check(Sampler, {"rule": rule, "schedule": schedule, "guidance": guidance, **field}, "sampler").spec


SHIFTED = {"name": "shifted", "steps": 5, "shift": 3.0}
EXPLICIT = {"name": "explicit", "at": [1.0, 0.6, 0.21, 0.0]}
APART = {
    *OF_AVERAGES,
    *ASKS_BESIDE,
    *("boundary_condition", "edm_heun", "ddgan", "gotta_go_fast", "paradigms", "student_t", "usf"),
    *(name for name, kind in RULES.items() if issubclass(kind, OfTokens)),
}
CARRIED = {
    "one step": even(1),
    "guided": even(3, guidance=2.0),
    "shifted": stated({"name": "euler"}, SHIFTED),
    **{name: stated(choice("rule", name), SHIFTED) for name in sorted(RULES.keys() - APART)},
    "usf": stated(choice("rule", "usf"), SHIFTED | {"steps": 8}),
    **{
        name: stated({"name": "dpmpp_2m"}, SHIFTED, 2.0, field=choice("field", name))
        for name in ("taylor_seer", "guidance_interval")
    },
    "explicit": stated({"name": "renoise"}, EXPLICIT, 1.5),
    "karras": stated({"name": "unipc"}, {**choice("schedule", "karras"), "steps": 4}, 1.5),
}


def drawn_at(spec):
    nodes = []

    def note(node, x):
        nodes.append(node)
        return x

    sample(lambda x, _t: x, torch.zeros(1), spec.times, rule_of(spec.rule), rng=note)
    assert len(set(nodes)) == len(nodes), "equal nodes give equal noise"
    return nodes


@pytest.mark.parametrize("name", CARRIED)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_stock_diffusers_gives_our_images_to_the_last_bit(net, name, tmp_path):
    """Whatever rule and grid a student carries: the folder's pipeline does the same sums in the same order."""
    spec = CARRIED[name]
    save(tmp_path, student(net, spec), program(spec))
    noise, again = Noise(5, "export"), load(tmp_path, PROMPTS)
    assert again.spec == spec
    ours = draw(again, ROWS, noise)
    theirs = stock_images(tmp_path, PROMPTS, noise, (1, 4, 4), drawn_at(spec))
    assert torch.equal(theirs, ours)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_eulers_steps_need_not_be_written_down(net, tmp_path):
    for name, spec in {"even": even(5, guidance=2.0), "shifted": CARRIED["shifted"]}.items():
        save(tmp_path / name, student(net, spec))
        stock = DiffusionPipeline.from_pretrained(tmp_path / name, trust_remote_code=True)
        noise, again = Noise(5, "export"), load(tmp_path / name, PROMPTS)
        for given, asked in (({}, spec), ({"num_inference_steps": 4}, even(4, guidance=spec.guidance))):
            theirs = stock(PROMPTS, latents=noise.at(0, 2, (1, 4, 4)), output_type="pt", **given).images
            assert torch.equal(theirs, draw(replace(again, spec=asked), ROWS, noise))
    with pytest.raises(ValueError, match="a model that steps by heun is saved with its steps"):
        save(tmp_path, student(net, even(2, rule="heun")))


SCHEDULED = {"euler": even(4), "euler shifted": CARRIED["shifted"], "renoise": even(4, rule="renoise")}


@pytest.mark.parametrize("name", [*SCHEDULED, "explicit"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
def test_the_folders_scheduler_takes_our_steps(net, name, tmp_path):
    """To float32, in which diffusers makes its times and its steps."""
    spec = SCHEDULED.get(name) or stated({"name": "renoise"}, EXPLICIT)
    save(tmp_path, student(net, spec), program(spec))
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    even_sigmas = [1 - i / spec.num_steps for i in range(spec.num_steps)]
    scheduler.set_timesteps(sigmas=spec.times[:-1] if name == "explicit" else even_sigmas)
    noise, drawn = Noise(5, "export"), iter(range(1, 9))
    x = noise.at(0, 2, (1, 4, 4))
    with pytest.MonkeyPatch.context() as patch:
        module = scheduling_flow_match_euler_discrete
        patch.setattr(module, "randn_tensor", lambda *_a, **_k: noise.at(0, 2, (1, 4, 4), next(drawn)))
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t.expand(2) / 1000, ROWS), t, x, return_dict=False)[0]
    torch.testing.assert_close(x, draw(student(net, spec), ROWS, noise), atol=2e-6, rtol=1e-5)


def test_a_rule_without_a_scheduler_of_diffusers_leaves_none(net, tmp_path):
    save(tmp_path, student(net, even(2, rule="unipc")), program(even(2, rule="unipc")))
    assert not (tmp_path / "scheduler").exists()


def test_pictures_have_the_samples_size(net, tmp_path):
    save(tmp_path, student(net, even(1)))
    stock = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    assert stock(PROMPTS[0]).images[0].size == (4, 4)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no model here .*model_index\.json"):
        load(tmp_path, [])


def test_a_saved_model_does_not_know_where_it_was_loaded_from(net, tmp_path):
    for place in ("here", "elsewhere"):
        save(tmp_path / place, student(net, even(1)))
        save(tmp_path / f"from {place}", load(tmp_path / place, []))
    for file in (path for path in (tmp_path / "from here").rglob("*") if path.is_file()):
        twin = tmp_path / "from elsewhere" / file.relative_to(tmp_path / "from here")
        assert twin.read_bytes() == file.read_bytes(), f"{file.name} differs"


def test_a_table_is_read_row_by_row_and_shared_by_copies(net, tmp_path):
    save(tmp_path / "model", student(net, even(1)))
    prompts = ["", *PROMPTS]
    table = TextTable(prompts, encoder_of(tmp_path / "model").encode(prompts))
    table.save(tmp_path)
    read = load(tmp_path / "model", TextTable.load(tmp_path)).net
    x, t = torch.randn(2, 1, 4, 4, generator=stream(0, "x")), torch.tensor([0.5, 0.2])
    assert torch.equal(read(x, t, ROWS), load(tmp_path / "model", PROMPTS).net(x, t, ROWS))
    torch.testing.assert_close(read(x, t, ROWS), net(x, t, ROWS))
    assert copy.deepcopy(read).text is read.text
    assert TextTable.load(tmp_path).rows([PROMPTS[1], ""]) == {PROMPTS[1]: 2, "": 0}
    with pytest.raises(ValueError, match=f"no prompt of the text table is called .* did you mean {PROMPTS[0]!r}"):
        table.rows([PROMPTS[0] + "0"])
    assert not any(name.startswith("text.") for name in read.state_dict()), "what is frozen is in no checkpoint"
    assert any(name.startswith("text.") for name in net.state_dict()), "and what learns is"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_student_of_a_closed_form_knows_its_prompts_by_place(tmp_path):
    encoder = OneHot(["", "component 0", "component 1"])
    made = seeded_build(0, TINY, (2, 2, 2), TextTable(encoder.prompts, encoder.encode(encoder.prompts)))
    torch.nn.init.normal_(made.body.proj_out.weight, std=0.3, generator=stream(0, "test"))
    save(tmp_path, Student(made.eval().requires_grad_(False), even(2, guidance=1.5), Points((2, 2, 2)), encoder))
    noise, asked = Noise(5, "export"), ["component 1", "component 0"]
    ours = draw(load(tmp_path, asked), ROWS, noise)
    stock = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    start = noise.at(0, 2, (2, 2, 2))
    torch.testing.assert_close(stock(asked, latents=start, output_type="pt").images, ours, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="samples are points, no pictures"):
        stock(asked, latents=start)


def test_pixels_are_there_and_back():
    images = torch.rand(2, 1, 4, 4, generator=stream(0, "x"))
    torch.testing.assert_close(SPACE.decode(SPACE.encode(images)), images)
    assert SPACE.decode(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]
    assert SPACE.decode(torch.tensor([torch.nan])).isnan().all()
