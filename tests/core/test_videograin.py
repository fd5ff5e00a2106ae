"""VideoGrain's ST-Layout modulation as published, against Modulation.videograin and size_regularization.

    sim += mask * size_reg * lambda * t * (max(sim) - sim)
    sim -= (1 - mask) * size_reg * lambda * t * (sim - min(sim))

max and min over the keys, t = ((timestep - 1) / 1000) ** 5, lambda 0.3 in self-attention and 1.0 in
cross-attention, size_reg 1 minus the share of keys under the mask.
"""

from __future__ import annotations

import pytest
import torch
from cases import Case, Target, assert_parity, on_targets
from torch import Tensor

from fame_accel import Modulation, SpaceTimeLayout, TokenLayout

MASKS = torch.zeros(3, 3, 12, 10, dtype=torch.bool)  # [regions, frames, height, width]
MASKS[0, :, 2:9, 1:5] = True
MASKS[1, :, 3:11, 4:9] = True  # overlaps region 0
MASKS[2, 1:, :2] = True  # absent from the first frame
HEADS, HEAD_DIM = 2, 16


def _videograin(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Output and size_reg; mask [Nq, Nk] bool, factor lambda * t."""
    mask = mask.to(query.dtype)
    size_reg = 1 - mask.mean(-1, keepdim=True)
    sim = torch.einsum("bhid,bhjd->bhij", query, key) * query.shape[-1] ** -0.5
    highest, lowest = sim.max(-1, keepdim=True)[0], sim.min(-1, keepdim=True)[0]
    raised = mask * size_reg * factor * (highest - sim)
    lowered = (1 - mask) * size_reg * factor * (sim - lowest)
    sim = sim + raised - lowered
    return sim.softmax(-1) @ value, size_reg[:, 0]


def _pixel_regions(size: tuple[int, int]) -> Tensor:
    """[tokens, regions] bool, resampled by VideoGrain's own interpolate call."""
    small = torch.nn.functional.interpolate(MASKS.float(), size=size, mode="nearest").bool()
    return small.flatten(1).T


def _tensors(num_queries: int, num_keys: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(1, HEADS, n, HEAD_DIM).to(dtype) for n in (num_queries, num_keys, num_keys)]


def _assert_videograin(case: Case, target: Target, mask: Tensor, factor: float) -> None:
    query, key, value = (x.cpu().double() for x in (case.query, case.key, case.value))
    published, size_reg = _videograin(query, key, value, mask, factor)
    measured = case.query_layout.size_regularization(case.key_layout)
    torch.testing.assert_close(measured.cpu().double(), size_reg, rtol=0, atol=1e-7)
    torch.testing.assert_close(case.oracle()[0].cpu(), published, rtol=0, atol=1e-6)  # float32 row_strength
    assert_parity(*case.run(target.backend), case)


@pytest.mark.parametrize(
    "timestep, size", [(1000, (6, 5)), pytest.param(981, (15, 12), marks=pytest.mark.slow), (701, (6, 5))]
)
@on_targets
def test_self_attention_over_frames(target: Target, timestep: int, size: tuple[int, int]):
    layout = SpaceTimeLayout.from_masks(MASKS).tokens(*size, target.device)
    regions = _pixel_regions(size).int()
    mask, factor = regions @ regions.T > 0, 0.3 * ((timestep - 1) / 1000) ** 5
    query, key, value = (x.to(target.device) for x in _tensors(len(regions), len(regions), target.dtype))
    case = Case(
        query, key, value, layout, modulation=Modulation.videograin(layout.num_frames),
        row_strength=factor * layout.size_regularization(),
    )  # fmt: skip
    _assert_videograin(case, target, mask, factor)


@pytest.mark.parametrize("num_tokens", [9, 77])
@on_targets
def test_cross_attention_with_text(target: Target, num_tokens: int):
    pixels = SpaceTimeLayout.from_masks(MASKS).tokens(6, 5, target.device)
    words = torch.zeros(num_tokens, 3, dtype=torch.bool)
    words[1:3, 0] = words[4, 1] = words[5:7, 2] = words[7] = True  # token 7 names all regions, token 0 none
    mask, factor = _pixel_regions((6, 5)).int() @ words.int().T > 0, 1.0 * ((961 - 1) / 1000) ** 5
    bits = (words.int() << torch.arange(3)).sum(1).to(target.device)
    text = TokenLayout(bits, torch.zeros_like(bits), 1)
    query, key, value = (x.to(target.device) for x in _tensors(len(mask), num_tokens, target.dtype))
    case = Case(
        query, key, value, pixels, text, Modulation.videograin(pixels.num_frames, key_frames=1),
        row_strength=factor * pixels.size_regularization(text),
    )  # fmt: skip
    _assert_videograin(case, target, mask, factor)
