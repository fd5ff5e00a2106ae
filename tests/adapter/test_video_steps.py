"""Which calls of a video model are modulated: the steps of its run, the halves of guidance; and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from video_models import FRAMES, HEIGHT, TEXT, VIDEO_MODELS, WIDTH, run, without_zeros

from fame_accel import FameConfig, Modulation, SpaceTimeLayout, VideoFamily, apply_fame, restore_fame
from fame_accel.adapter import install
from fame_accel.adapter.families import FAMILIES
from fame_accel.adapter.steps import Steps
from fame_accel.adapter.video_state import VideoState
from fame_accel.core.parity import error

LAYOUT = SpaceTimeLayout.from_masks(
    torch.rand(2, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) > 0.4
)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int, int]]:
    """(schedule, batch, plain items) of each call of a model."""
    seen: list[tuple[float, int, int]] = []
    prepare = VideoState.prepare

    def recording(self: VideoState, arguments: Any, schedule: float, plain_items: int, *ranks: int) -> None:
        seen.append((schedule, len(arguments["hidden_states"]), plain_items))
        prepare(self, arguments, schedule, plain_items, *ranks)

    monkeypatch.setattr(VideoState, "prepare", recording)
    return seen


def _config(**more: Any) -> FameConfig:
    return FameConfig(LAYOUT, Modulation.fame(FRAMES), **{"power": 1.0} | more)


def _family(name: str) -> Any:
    return next(family for family in FAMILIES if family.name == name)


def _model(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    case = VIDEO_MODELS[name]()
    torch.manual_seed(0)
    return without_zeros(case.make()), case.inputs


def _wan_pipeline(**scheduler: Any) -> Any:
    torch.manual_seed(0)
    transformer = without_zeros(
        diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=8,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            rope_max_seq_len=32,
        )  # fmt: skip
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    pipeline = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _edit(pipeline: Any, steps: int, **more: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(2, 1, TEXT, 8, generator=torch.Generator().manual_seed(2))
    return pipeline(
        prompt_embeds=embeddings[0], negative_prompt_embeds=embeddings[1], height=16 * HEIGHT, width=16 * WIDTH,
        num_frames=4 * (FRAMES - 1) + 1, num_inference_steps=steps, output_type="latent", generator=generator, **more,
    ).frames  # fmt: skip


@pytest.mark.parametrize("shift", [1.0, 7.0])
def test_the_first_steps_of_a_pipeline_are_modulated_whatever_the_shift(calls: list, shift: float):
    pipeline = _wan_pipeline(shift=shift)
    plain = _edit(pipeline, 10)
    with apply_fame(pipeline, _config()):
        modulated = _edit(pipeline, 10)
    assert error(modulated, plain)[0] > 1e-4
    # each step calls the prompt's pass, then the unconditional one, which stays plain
    assert [plain for _, _, plain in calls] == [0, 1] * 3 + [1, 1] * 7
    levels = pipeline.scheduler.timesteps / 1000
    assert [schedule for schedule, *_ in calls[::2]] == pytest.approx(levels.tolist(), abs=1e-6)
    assert torch.equal(_edit(pipeline, 10), plain)


def test_both_passes_where_guidance_is_all(calls: list):
    pipeline = _wan_pipeline()
    with apply_fame(pipeline, _config(guidance="all", active_fraction=1.0)):
        _edit(pipeline, 2)
    assert [plain for _, _, plain in calls] == [0, 0, 0, 0]


def test_a_compiled_transformer_in_its_pipeline(calls: list):
    pipeline = _wan_pipeline()
    with apply_fame(pipeline, _config()):
        wanted = _edit(pipeline, 4)
    eager = list(calls)
    calls.clear()
    pipeline.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    with apply_fame(pipeline, _config()):
        assert error(_edit(pipeline, 4), wanted)[0] < 1e-5
    assert calls == eager


def test_a_second_transformer_goes_on_with_the_steps_of_the_first(calls: list):
    pipeline = _wan_pipeline()
    pipeline.register_modules(transformer_2=_wan_pipeline().transformer)
    pipeline.register_to_config(boundary_ratio=0.8)
    with apply_fame(pipeline, _config(active_fraction=0.5)) as handle:
        assert len(handle.layers) == 1  # of one name in both
        _edit(pipeline, 10)
    assert [plain for _, _, plain in calls] == [0, 1] * 5 + [1, 1] * 5


def test_a_bare_models_steps_are_counted(calls: list):
    model, inputs = _model("Wan T2V")
    with apply_fame(model, _config(active_fraction=0.5, num_inference_steps=4)):
        for _ in range(2):  # runs
            for timestep in (900, 600, 300, 100):
                for _ in range(2):  # calls of a step
                    run(model, inputs | {"timestep": torch.tensor([timestep])})
    assert [plain for _, _, plain in calls] == ([0] * 4 + [1] * 4) * 2


def test_every_call_is_modulated_where_the_fraction_is_one(calls: list):
    model, inputs = _model("Wan T2V")
    with apply_fame(model, _config(active_fraction=1.0)):
        for timestep in (10, 990, 500, 500, 0):
            run(model, inputs | {"timestep": torch.tensor([timestep])})
    assert [plain for _, _, plain in calls] == [0] * 5


def test_paused_calls_are_plain():
    model, inputs = _model("Wan T2V")
    plain = run(model, inputs)
    with apply_fame(model, _config(active_fraction=1.0)) as handle:
        with handle.paused():
            assert torch.equal(run(model, inputs), plain)
        assert error(run(model, inputs), plain)[0] > 1e-3


@pytest.mark.parametrize("name", ["CogVideoX", "LTX", "Mochi", "EasyAnimate"])
def test_the_unconditional_half_of_a_batch_stays_plain(name: str):
    model, inputs = _model(name)
    batch = {
        key: value[:1].repeat(2, *([1] * (value.dim() - 1))) if isinstance(value, Tensor) else value
        for key, value in inputs.items()
    }
    text = batch["encoder_hidden_states"]
    batch["encoder_hidden_states"] = torch.stack([text[0] * 0.5, text[1]])
    config = _config(active_fraction=1.0, token_regions=torch.ones(TEXT, dtype=torch.int32))
    plain = run(model, batch)
    with apply_fame(model, config):
        got = run(model, batch)
    with apply_fame(model, _config(active_fraction=1.0, token_regions=config.token_regions, guidance="all")):
        both = run(model, batch)
    assert error(got[0], plain[0])[0] <= 2e-6 and error(got[1], both[1])[0] <= 2e-6
    assert error(got[1], plain[1])[0] > 1e-4 and error(both[0], plain[0])[0] > 1e-4
    batch["hidden_states"] = torch.randn_like(batch["hidden_states"])
    with apply_fame(model, config), pytest.raises(ValueError, match="batch of 2 is not twice the same latents"):
        run(model, batch)


def test_the_second_call_of_a_step_is_unconditional_where_pipelines_do_not_name_it():
    steps = Steps(_config(), _family("Cosmos"), None)
    repeated = []
    for noise in (0.9, 0.9, 0.6, 0.6, 0.3):
        steps.advance(torch.tensor([noise]))
        repeated.append(steps.repeated)
    assert repeated == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("name", "timestep", "scheduler", "noise"),
    [
        ("Wan", torch.tensor([[0.0, 750.0]]), None, 0.75),
        ("Mochi", torch.tensor([250.0]), None, 0.75),
        ("MiniMax H3", torch.tensor([0.75, 0.5]), None, 0.75),
        ("Cosmos", torch.tensor([0.75]), None, 0.75),
        ("Cosmos", torch.tensor([0.0]), diffusers.EDMEulerScheduler(), 0.5),
    ],
)
def test_noise_levels(name: str, timestep: Tensor, scheduler: Any, noise: float):
    steps = Steps(_config(), _family(name), scheduler)
    steps.advance(timestep)
    assert steps.noise == pytest.approx(noise)


def test_a_noise_level_out_of_range_is_refused():
    steps = Steps(_config(), _family("Wan"), None)
    with pytest.raises(ValueError, match="timestep 5000 is noise level 5 of Wan"):
        steps.advance(5000)


def test_no_modulated_step_is_said():
    model, inputs = _model("Wan T2V")
    handle = apply_fame(model, _config(active_fraction=0.1, num_inference_steps=10))
    with pytest.warns(UserWarning) as caught:
        with handle.paused():
            run(model, inputs)
        warnings.warn("nothing else", UserWarning, stacklevel=1)
        handle.restore()
    assert [str(warning.message) for warning in caught] == ["nothing else"]  # the step itself was one to modulate


def test_restored_by_name_and_twice():
    model, inputs = _model("Wan T2V")
    plain = run(model, inputs)
    apply_fame(model, _config(active_fraction=1.0))
    with pytest.raises(RuntimeError, match="FAME attention is installed already"):
        apply_fame(model, _config())
    restore_fame(model)
    restore_fame(model)
    assert torch.equal(run(model, inputs), plain)
    assert "cache_context" not in vars(model)


def test_a_model_of_no_family_can_be_described(monkeypatch: pytest.MonkeyPatch):
    model, inputs = _model("Wan T2V")
    wan = _family("Wan")
    with apply_fame(model, _config(active_fraction=1.0)):
        wanted = run(model, inputs)
    monkeypatch.setattr(install, "FAMILIES", ())
    with pytest.raises(TypeError, match="got WanTransformer3DModel; family=VideoFamily"):
        apply_fame(model, _config())
    described = VideoFamily(name="my model", models=(), grid=wan.grid, layers=wan.layers)
    with apply_fame(model, _config(active_fraction=1.0), family=described) as handle:
        assert torch.equal(run(model, inputs), wanted)
        assert handle.family is described
    regions = torch.ones(TEXT, dtype=torch.int32)
    with pytest.raises(ValueError, match="token_regions must be None: my model attends to no prompt"):
        apply_fame(model, _config(token_regions=regions), family=described)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layout": SpaceTimeLayout.from_masks(torch.ones(1, FRAMES + 1, 2, 2, dtype=torch.bool)),
          "self_modulation": Modulation.fame(FRAMES + 1)}, "latents of the model have 4: .*temporal=4"),
        ({"token_regions": torch.ones(TEXT + 1, dtype=torch.int32)}, "token_regions has 7 tokens, but .* have 6"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_refused_at_its_first_call(more: dict[str, Any], message: str):
    model, inputs = _model("Wan T2V")
    settings = {"layout": LAYOUT, "self_modulation": Modulation.fame(FRAMES)} | more
    with apply_fame(model, FameConfig(**settings)), pytest.raises(ValueError, match=message):
        run(model, inputs)


def test_models_and_families_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match=r"got Linear; family=VideoFamily\(\.\.\.\) describes another"):
        apply_fame(torch.nn.Linear(1, 1), _config())
    with pytest.raises(TypeError, match="family must be a VideoFamily, a MotionFamily or None, got str"):
        apply_fame(torch.nn.Linear(1, 1), _config(), family="Wan")
    model, _ = _model("Wan T2V")
    with pytest.raises(ValueError, match="modulates neither"):
        apply_fame(model, FameConfig(LAYOUT, None))
    for value in (0, 1.5, True):
        with pytest.raises(ValueError, match="num_inference_steps must be an int >= 1"):
            _config(num_inference_steps=value)


def test_descriptions_that_cannot_be_are_refused():
    wan = _family("Wan")
    with pytest.raises(ValueError, match=r"layers must be a regular expression of layers' names, got '\('"):
        VideoFamily(name="mine", models=(), grid=wan.grid, layers="(")
    with pytest.raises(ValueError, match="cross must be a regular expression"):
        VideoFamily(name="mine", models=(), grid=wan.grid, layers="x", cross="[")
    with pytest.raises(TypeError, match="grid must be a function of config and arguments, got tuple"):
        VideoFamily(name="mine", models=(), grid=(1, 2, 3), layers="x")
    described = VideoFamily(name="mine", models=(), grid=wan.grid, layers="x")
    with pytest.raises(TypeError, match="must be a model of diffusers, with a config, got Linear"):
        apply_fame(torch.nn.Linear(1, 1), _config(), family=described)


def test_derivatives_are_refused():
    model, inputs = _model("Wan T2V")
    with torch.enable_grad(), apply_fame(model, _config(active_fraction=1.0)):
        with pytest.raises(RuntimeError, match="query requires grad, but layout attention has no backward"):
            run(model, inputs)


def test_sparse_attention_of_kandinsky_is_refused():
    model, inputs = _model("Kandinsky 5")
    with apply_fame(model, _config()), pytest.raises(ValueError, match="sparse_params must be None"):
        run(model, inputs | {"sparse_params": {"to_fractal": False}})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Wan T2V", "CogVideoX"])
def test_a_model_compiled_in_place_keeps_its_code_from_step_to_step(name: str):
    model, inputs = _model(name)
    tokens = inputs["encoder_hidden_states"].shape[1]
    regions = torch.ones(tokens, dtype=torch.int32)
    settings = {"active_fraction": 0.5, "num_inference_steps": 4, "token_regions": regions}
    steps = [inputs | {"timestep": torch.tensor([timestep])} for timestep in (900, 600, 300, 100)]
    with apply_fame(model, _config(**settings)):
        wanted = [run(model, step) for step in steps]
    torch.compiler.reset()
    counters.clear()
    model.compile(backend="eager", fullgraph=True)
    compiled = model._compiled_call_impl
    for _ in range(2):
        with apply_fame(model, _config(**settings)):
            got = [run(model, step) for step in steps]
        assert all(error(one, other)[0] < 1e-5 for one, other in zip(got, wanted, strict=True))
        assert counters["stats"]["unique_graphs"] == 1
    assert model._compiled_call_impl is compiled


def test_compiling_after_apply_fame_is_refused():
    model, inputs = _model("Wan T2V")
    torch.compiler.reset()
    with apply_fame(model, _config()):
        model.compile(backend="eager")
        with pytest.raises(Exception, match=r"call model.compile\(\) first, then apply_fame"):
            run(model, inputs)
