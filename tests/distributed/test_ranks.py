"""Attention and models over 2 and 4 processes: equal to one process."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
import torch.distributed as dist
from ranks import run_on_ranks
from torch import Tensor
from video_models import FRAMES, HEIGHT, WIDTH, run, wan, without_zeros

from fame_accel import (
    FameConfig,
    Modulation,
    SpaceTimeLayout,
    TokenLayout,
    apply_fame,
    layout_attention,
    ulysses_attention,
)
from fame_accel.core.distributed import gather_tokens
from fame_accel.core.parity import error

TOKENS, HEADS = 32, 4


def on_two(test: Any) -> Any:
    """Mark a test of two ranks alone."""
    return pytest.mark.slow(pytest.mark.parametrize("on_ranks", [2], indirect=True)(test))


MODULATIONS = {
    "plain": None,
    "region_mask": Modulation.region_mask(FRAMES, 0.2),
    "fame": Modulation.fame(FRAMES, 0.2),
    "fame_strength": Modulation.fame(FRAMES, 0.2, decay_on="strength"),
}


def _problem() -> tuple[TokenLayout, list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    region = torch.randint(0, 4, (TOKENS,), generator=generator)
    layout = TokenLayout(region, torch.arange(TOKENS) * FRAMES // TOKENS, FRAMES)
    sides = [torch.randn(2, HEADS, TOKENS, 16, generator=generator) for _ in range(3)]
    return layout, sides, torch.rand(TOKENS, generator=generator), torch.rand(TOKENS, generator=generator)


def _own(side: Tensor, dim: int) -> Tensor:
    return side.chunk(dist.get_world_size(), dim)[dist.get_rank()]


@pytest.fixture(scope="module", params=[2, 4])
def on_ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `_work` returns on each rank: processes are started once for all tests."""
    return run_on_ranks(_work, request.param, tmp_path_factory.mktemp("ranks"))


def _work() -> dict[str, Any]:
    results: dict[str, Any] = {"ulysses": _ulysses(), "unet": _own_frames()}
    if dist.get_world_size() == 2:
        results |= {"gathered": _gathered_and_refused(), "wan": _wan_by_ulysses(), "ring": _wan_by_ring()}
        results |= {"refused": _refused_groups()}
    return results


def _ulysses() -> dict[str, tuple[Tensor, Tensor]]:
    layout, sides, rows, weights = _problem()
    own = [_own(side, 2) for side in sides]
    return {
        name: ulysses_attention(
            *own, layout, modulation=modulation, row_strength=rows, key_weight=weights, return_lse=True
        )
        for name, modulation in MODULATIONS.items()
    }


def _of(on_ranks: list[dict[str, Any]], name: str) -> list[Any]:
    """The results of this name, rank by rank."""
    return [results[name] for results in on_ranks]


@pytest.mark.slow
def test_ulysses_is_the_attention_of_one_process_bit_for_bit(on_ranks: list):
    results = _of(on_ranks, "ulysses")
    layout, sides, rows, weights = _problem()
    for name, modulation in MODULATIONS.items():
        wanted = layout_attention(
            *sides, layout, modulation=modulation, row_strength=rows, key_weight=weights, return_lse=True
        )
        for index, whole in enumerate(wanted):
            assert torch.equal(torch.cat([result[name][index] for result in results], 2), whole), name


def _gathered_and_refused() -> tuple[Tensor, list[str]]:
    layout, sides, rows, _ = _problem()
    query, key, value = (_own(side, 2) for side in sides)
    own = TokenLayout(_own(layout.region[0], 0), _own(layout.frame[0], 0), FRAMES)
    modulation = Modulation.fame(FRAMES, 0.2)
    keys, values = gather_tokens(key), gather_tokens(value)
    out = layout_attention(query, keys, values, own, layout, modulation, row_strength=_own(rows, 0))
    messages = []
    for arguments in ((query[:, :3], key[:, :3], value[:, :3], layout), (query, key, value, own)):
        try:
            ulysses_attention(*arguments)
        except ValueError as problem:
            messages.append(str(problem))
    return out, messages


@on_two
def test_own_queries_against_gathered_keys_and_what_is_refused(on_ranks: list):
    results = _of(on_ranks, "gathered")
    layout, sides, rows, _ = _problem()
    wanted = layout_attention(*sides, layout, modulation=Modulation.fame(FRAMES, 0.2), row_strength=rows)
    assert error(torch.cat([out for out, _ in results], 2), wanted)[0] < 1e-6
    for _, messages in results:
        assert messages == [
            "query has 3 heads, which 2 ranks cannot divide: use one of [1, 3] ranks",
            "query_layout must be of the whole sequence, 16 tokens on each of 2 ranks, got 16",
        ]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(query=None), TypeError, "query must be a tensor, got NoneType"),
        (dict(key=torch.ones(3)), ValueError, r"key must have shape \[B, H, N, D\], got \(3,\)"),
        (dict(query_layout=3), TypeError, "query_layout must be a fame_accel.TokenLayout, got int"),
        (dict(key_layout=torch.ones(3)), TypeError, "key_layout must be a fame_accel.TokenLayout, got Tensor"),
        (dict(modulation="fame"), TypeError, "modulation must be a fame_accel.Modulation or None, got str"),
        (dict(return_lse="no"), TypeError, "return_lse must be True or False, got 'no'"),
        (dict(backend=torch.ones(3)), ValueError, "backend must be one of .* got a tensor"),
        (dict(group="ranks"), TypeError, "group must be a torch.distributed process group or None, got 'ranks'"),
    ],
)
def test_foreign_values_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    layout, (query, key, value), *_ = _problem()
    with pytest.raises(error, match=message):
        ulysses_attention(**{"query": query, "key": key, "value": value, "query_layout": layout, **change})


def test_without_a_process_group_it_says_so():
    layout, sides, *_ = _problem()
    with pytest.raises(RuntimeError, match=r"launch by torchrun and call init_process_group\(\)"):
        ulysses_attention(*sides, layout)


def _layout() -> SpaceTimeLayout:
    masks = torch.zeros(2, FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, :, :, :2] = True
    masks[1] = ~masks[0]
    return SpaceTimeLayout.from_masks(masks)


def _video_config() -> FameConfig:
    regions = torch.tensor([3, 1, 2, 0, 1, 2])
    return FameConfig(
        _layout(), Modulation.fame(FRAMES, 0.2), token_regions=regions, active_fraction=1.0, self_factor=0.8, power=0.0
    )


def _wan(ring: int = 1) -> Any:
    from diffusers import ContextParallelConfig
    from diffusers.hooks.context_parallel import apply_context_parallel
    from diffusers.models._modeling_parallel import ParallelConfig

    torch.manual_seed(0)
    case = wan()
    model = without_zeros(case.make())
    ranks = dist.get_world_size()
    parallel = ContextParallelConfig(**({"ring_degree": ranks} if ring > 1 else {"ulysses_degree": ranks}))
    mesh = dist.device_mesh.init_device_mesh(
        "cpu", mesh_shape=parallel.mesh_shape, mesh_dim_names=parallel.mesh_dim_names
    )
    config = ParallelConfig(context_parallel_config=parallel)
    config.setup(dist.get_rank(), ranks, torch.device("cpu"), mesh=mesh)  # enable_parallelism asks for accelerators
    for module in model.modules():
        if hasattr(getattr(module, "processor", None), "_parallel_config"):
            module.processor._parallel_config = config
    apply_context_parallel(model, parallel, model._cp_plan)
    return model, case.inputs


def _wan_by_ulysses() -> tuple[Tensor, Tensor]:
    model, inputs = _wan()
    plain = run(model, inputs)
    with apply_fame(model, _video_config()):
        return plain, run(model, inputs)


def _wan_by_ring() -> str:
    model, inputs = _wan(ring=2)
    with apply_fame(model, _video_config()):
        try:
            run(model, inputs)
        except RuntimeError as problem:
            return str(problem)
    return "nothing was raised"


@on_two
def test_wan_by_diffusers_own_context_parallelism(on_ranks: list):
    results = _of(on_ranks, "wan")
    torch.manual_seed(0)
    case = wan()
    model = without_zeros(case.make())
    with torch.no_grad():
        plain = run(model, case.inputs)
        with apply_fame(model, _video_config()):
            wanted = run(model, case.inputs)
    assert error(wanted, plain)[0] > 1e-3
    for got_plain, got in results:
        assert error(got_plain, plain)[0] < 2e-6 and error(got, wanted)[0] < 2e-6


@on_two
def test_ring_attention_is_refused(on_ranks: list):
    for message in _of(on_ranks, "ring"):
        assert "which ring attention never brings together: use ContextParallelConfig(ulysses_degree=...)" in message


def _unet() -> tuple[torch.nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=16,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2, block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4,
    ).eval()  # fmt: skip
    latents, text = torch.randn(FRAMES, 4, 8, 8), torch.randn(2, 1, 6, 16)
    return model, {"latents": latents, "text": text}


def _unet_config(group: Any = None) -> FameConfig:
    masks = torch.zeros(2, FRAMES, 8, 8, dtype=torch.bool)
    for frame in range(FRAMES):
        masks[0, frame, :, frame : frame + 4] = True
    masks[1] = ~masks[0]
    return FameConfig(
        SpaceTimeLayout.from_masks(masks), Modulation.fame(FRAMES, 0.2), token_regions=torch.tensor([3, 1, 2, 0, 1, 2]),
        active_fraction=1.0, self_factor=0.8, power=0.0, group=group, cross_size="frame",
    )  # fmt: skip


def _noise(model: torch.nn.Module, inputs: dict[str, Tensor], config: FameConfig, own: slice) -> Tensor:
    """Both halves of guidance, [2, frames, ...]."""
    latents = inputs["latents"][own]
    text = inputs["text"].expand(-1, len(latents), -1, -1).flatten(0, 1)
    with apply_fame(model, config):
        return model(latents.repeat(2, 1, 1, 1), 900, text).sample.unflatten(0, (2, -1))


def _own_frames() -> Tensor:
    model, inputs = _unet()
    count = FRAMES // dist.get_world_size()
    own = slice(dist.get_rank() * count, (dist.get_rank() + 1) * count)
    return _noise(model, inputs, _unet_config(dist.group.WORLD), own)


@pytest.mark.slow
def test_a_unet_whose_frames_are_divided(on_ranks: list):
    results = _of(on_ranks, "unet")
    model, inputs = _unet()
    with torch.no_grad():
        wanted = _noise(model, inputs, _unet_config(), slice(None))
    assert error(torch.cat(results, 1), wanted)[0] < 2e-6


def _refused_groups() -> list[str]:
    messages = []
    odd = SpaceTimeLayout.from_masks(torch.ones(1, 3, 8, 8, dtype=torch.bool))
    model, _ = _unet()
    for layout, target in ((odd, model), (_layout(), without_zeros(wan().make()))):
        config = FameConfig(layout, Modulation.fame(layout.num_frames), group=dist.group.WORLD)
        try:
            apply_fame(target, config)
        except ValueError as problem:
            messages.append(str(problem))
    return messages


@on_two
def test_groups_that_do_not_fit_are_refused(on_ranks: list):
    for messages in _of(on_ranks, "refused"):
        assert messages == [
            "layout has 3 frames, which 2 ranks cannot divide",
            "group must be None for a video transformer: divide it by its own enable_parallelism()",
        ]
