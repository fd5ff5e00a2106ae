"""Layouts: resampling, bitsets, size regularisation, caching and what they refuse."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from cases import KINDS, layout
from torch import Tensor

from fame_accel import Modulation, SpaceTimeLayout, TokenLayout, layout_attention, reference


def _masks(regions: int, frames: int, height: int, width: int, share: float = 0.4) -> Tensor:
    return torch.rand(regions, frames, height, width) < share


SIZES = [
    ((72, 40), (9, 7)),
    ((72, 40), (9, 5)),
    ((64, 64), (16, 16)),
    ((64, 64), (64, 64)),
    ((64, 64), (1, 1)),
    ((45, 79), (23, 40)),
    ((7, 5), (13, 11)),
    ((8, 8), (32, 24)),
    ((1, 1), (3, 2)),
    ((576, 1024), (18, 31)),
]


@pytest.mark.parametrize("source, size", SIZES, ids=str)
def test_tokens_are_the_nearest_masks(source: tuple[int, int], size: tuple[int, int]):
    masks = _masks(3, 2, *source)
    tokens = SpaceTimeLayout.from_masks(masks).tokens(*size)
    small = torch.nn.functional.interpolate(masks.float(), size=size, mode="nearest").bool()
    for region, mask in enumerate(small):
        assert torch.equal(tokens.region[0] >> region & 1 == 1, mask.flatten())
    assert not (tokens.region >> 3).any()
    assert torch.equal(tokens.frame[0].long(), torch.arange(2).repeat_interleave(size[0] * size[1]))
    assert tokens.num_frames == 2 and tokens.num_tokens == 2 * size[0] * size[1] and tokens.batch is None


def test_thirty_one_regions_and_none():
    masks = _masks(31, 2, 6, 6)
    tokens = SpaceTimeLayout.from_masks(masks).tokens(6, 6)
    bits = tokens.region[0].view(2, 6, 6)
    assert all(torch.equal(bits >> region & 1 == 1, mask) for region, mask in enumerate(masks))
    assert int(tokens.region.min()) >= 0
    empty = SpaceTimeLayout.from_masks(masks[:0])
    assert not empty.tokens(3, 3).region.any()
    assert (empty.num_regions, empty.num_frames, empty.height, empty.width) == (0, 2, 6, 6)


def test_overlap_sets_both_bits():
    masks = torch.ones(2, 1, 2, 2, dtype=torch.bool)
    masks[0, 0, 0, 0] = masks[:, 0, 1, 1] = False
    assert SpaceTimeLayout.from_masks(masks).tokens(2, 2).region.tolist() == [[2, 3, 3, 0]]


def test_masks_are_not_kept():
    masks = _masks(2, 1, 4, 4)
    space_time = SpaceTimeLayout.from_masks(masks)
    before = space_time.tokens(2, 2).region.clone()
    masks.logical_not_()
    assert torch.equal(space_time.tokens(2, 2).region, before)
    assert torch.equal(space_time.tokens(4, 4).region, SpaceTimeLayout.from_masks(~masks).tokens(4, 4).region)


def test_tokens_are_cached_by_size_and_device():
    space_time = SpaceTimeLayout.from_masks(_masks(2, 2, 8, 8))
    assert space_time.tokens(4, 4) is space_time.tokens(4, 4) is space_time.tokens(4, 4, "cpu")
    assert space_time.tokens(4, 4) is not space_time.tokens(4, 2)


@pytest.mark.gpu
def test_layouts_move_to_a_gpu():
    space_time = SpaceTimeLayout.from_masks(_masks(2, 2, 8, 8))
    there = space_time.tokens(4, 4, "cuda")
    assert there.device.type == "cuda" and there is space_time.tokens(4, 4, torch.device("cuda"))
    moved = space_time.tokens(4, 4).to("cuda")
    assert torch.equal(moved.region, there.region) and torch.equal(moved.frame, there.frame)
    assert there.to("cuda") is there


def test_to_the_same_device_is_the_same_layout():
    one = layout(5)
    assert one.to("cpu") is one


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("batch", [None, 2])
def test_copies_are_equal_and_carry_no_plans(copied: Callable[[TokenLayout], TokenLayout], batch: int | None):
    one = layout(6, batch=batch)
    one.plans.get(one, "key", list)
    other = copied(one)
    assert other == one and other.batch == one.batch and len(other.plans) == 0 and len(one.plans) == 1


def _brute_size_regularization(query: Tensor, key: Tensor) -> Tensor:
    return torch.stack([1 - ((bits & key) != 0).float().mean() for bits in query])


@pytest.mark.parametrize("kind", [*KINDS, "one_token"])
def test_size_regularization_counts_pairs(kind: str):
    query, key = layout(50, kind=kind), layout(37, kind=kind)
    own, crossed = query.size_regularization(), query.size_regularization(key)
    torch.testing.assert_close(own, _brute_size_regularization(query.region[0], query.region[0]))
    torch.testing.assert_close(crossed, _brute_size_regularization(query.region[0], key.region[0]))
    assert crossed.dtype == torch.float32 and crossed.shape == (50,)
    assert crossed.min() >= 0 and crossed.max() <= 1


@pytest.mark.parametrize("batches", [(3, None), (None, 3), (3, 3)], ids=str)
def test_size_regularization_of_a_batch(batches: tuple[int | None, int | None]):
    query, key = (layout(n, batch=batch) for n, batch in zip((20, 30), batches, strict=True))
    regions = [one.region.expand(3, -1) for one in (query, key)]
    rows = [_brute_size_regularization(*pair) for pair in zip(*regions, strict=True)]
    torch.testing.assert_close(query.size_regularization(key), torch.stack(rows))


def test_size_regularization_without_keys():
    assert layout(4).size_regularization(layout(0)).tolist() == [1.0] * 4


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int16, torch.uint8])
def test_token_layout_takes_integers(dtype: torch.dtype):
    one = TokenLayout(torch.tensor([0, 1, 3], dtype=dtype), torch.tensor([0, 1, 1], dtype=dtype), 2)
    assert one.region.dtype == one.frame.dtype == torch.int32
    assert one.region.tolist() == [[0, 1, 3]] and one.frame.tolist() == [[0, 1, 1]]
    assert "tokens=3" in repr(one) and "frames=2" in repr(one)


def test_plans_are_built_once_and_the_least_recent_forgotten():
    one, other, built = layout(3), layout(3), []
    for key in (*range(100), 99, 0):
        assert one.plans.get(other, key, lambda key=key: built.append(key) or key) == key
    assert built == [*range(100), 0]
    assert len(one.plans) < 100
    one.plans.get(layout(3), 0, lambda: built.append("another owner"))
    assert built[-1] == "another owner"


def test_layouts_are_equal_by_content():
    region, frame = torch.tensor([0, 1, 3]), torch.tensor([0, 1, 1])
    one = TokenLayout(region, frame, 2)
    assert one == TokenLayout(region.clone(), frame.clone(), 2) and hash(one) == hash(TokenLayout(region, frame, 2))
    assert one != TokenLayout(region + 1, frame, 2) and one != TokenLayout(region, 1 - frame, 2)
    assert one != TokenLayout(region, frame, 3) and one != TokenLayout(region[None], frame[None], 2) and one != 0


ZEROS = torch.zeros(4, dtype=torch.int32)
BAD_LAYOUTS = {
    "region not a tensor": (([0, 1], ZEROS, 1), TypeError, "region.*integer tensor.*list"),
    "region floating": ((ZEROS.float(), ZEROS, 1), TypeError, "region.*float32"),
    "region bool": ((ZEROS.bool(), ZEROS, 1), TypeError, "region.*bool"),
    "frame floating": ((ZEROS, ZEROS.double(), 1), TypeError, "frame.*float64"),
    "region of three axes": ((ZEROS.view(1, 2, 2),) * 2 + (1,), ValueError, r"region.*\(1, 2, 2\)"),
    "region a scalar": ((ZEROS[0], ZEROS[0], 1), ValueError, r"region.*\[N\].*\(\)"),
    "frame of another shape": ((ZEROS, ZEROS[:3], 1), ValueError, r"frame.*\(4,\).*\(3,\)"),
    "frame batched alone": ((ZEROS, ZEROS[None], 1), ValueError, r"frame.*\(4,\).*\(1, 4\)"),
    "frame on another device": ((ZEROS, ZEROS.to("meta"), 1), ValueError, "frame.*cpu.*meta"),
    "num_frames zero": ((ZEROS, ZEROS, 0), ValueError, "num_frames.*>= 1.*0"),
    "num_frames bool": ((ZEROS, ZEROS, True), ValueError, "num_frames.*True"),
    "num_frames fractional": ((ZEROS, ZEROS, 2.0), ValueError, "num_frames.*2.0"),
    "region negative": ((ZEROS - 1, ZEROS, 1), ValueError, r"region.*\[0, 2147483648\).*-1"),
    "32 regions": ((ZEROS.long() + 2**31, ZEROS, 1), ValueError, "region.*31 regions.*2147483648"),
    "frame negative": ((ZEROS, ZEROS - 1, 1), ValueError, r"frame.*\[0, 1\).*-1"),
    "frame too large": ((ZEROS, ZEROS + 3, 3), ValueError, r"frame.*\[0, 3\).*3"),
}


@pytest.mark.parametrize("arguments, kind, message", BAD_LAYOUTS.values(), ids=BAD_LAYOUTS)
def test_bad_token_layout(arguments: tuple, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        TokenLayout(*arguments)


BAD_MASKS = {
    "not a tensor": ([[True]], TypeError, "masks.*bool tensor.*list"),
    "floating": (torch.ones(1, 1, 2, 2), TypeError, "masks.*float32"),
    "uint8": (torch.ones(1, 1, 2, 2, dtype=torch.uint8), TypeError, "masks.*uint8"),
    "three axes": (_masks(1, 1, 2, 2)[0], ValueError, r"masks.*\[regions.*\(1, 2, 2\)"),
    "no frames": (_masks(1, 0, 2, 2), ValueError, r"masks.*\(1, 0, 2, 2\)"),
    "no height": (_masks(1, 1, 0, 2), ValueError, r"masks.*\(1, 1, 0, 2\)"),
    "32 regions": (_masks(32, 1, 2, 2), ValueError, "masks.*32 regions.*31"),
}


@pytest.mark.parametrize("masks, kind, message", BAD_MASKS.values(), ids=BAD_MASKS)
def test_bad_masks(masks: object, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        SpaceTimeLayout.from_masks(masks)


BAD_SIZES = [(0, 4, "height"), (True, 4, "height"), (4, -1, "width"), (4, 2.0, "width")]


@pytest.mark.parametrize("height, width, name", BAD_SIZES)
def test_bad_size(height: int, width: int, name: str):
    with pytest.raises(ValueError, match=f"{name} must be an int >= 1"):
        SpaceTimeLayout.from_masks(_masks(1, 1, 4, 4)).tokens(height, width)


def some_uncovered() -> Tensor:
    masks = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    masks[0, :, :2, :2] = masks[1, :, 2:] = True
    return masks


def test_the_rest_is_a_region_of_its_own():
    masks = some_uncovered()
    plain, layout = SpaceTimeLayout.from_masks(masks), SpaceTimeLayout.from_masks(masks, rest=True)
    assert (plain.num_regions, layout.num_regions) == (2, 3)
    before, after = plain.tokens(4, 4).region, layout.tokens(4, 4).region
    assert torch.equal(after, torch.where(before == 0, 4, before)) and (before == 0).any()
    whole = torch.stack([masks[0], ~masks[0]])
    assert SpaceTimeLayout.from_masks(whole, rest=True).num_regions == 2  # nothing is left out
    assert SpaceTimeLayout.from_masks(masks[:0], rest=True).tokens(2, 2).region.unique().tolist() == [1]
    many = masks[:1].expand(31, -1, -1, -1)
    assert SpaceTimeLayout.from_masks(many).num_regions == 31
    with pytest.raises(
        ValueError, match="31 regions, the most there are, and leaves pixels out for the rest: rest=False"
    ):
        SpaceTimeLayout.from_masks(many, rest=True)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_a_hard_mask_lets_the_rest_attend_to_itself(backend: str):
    """Without it, these rows see nothing and are 0."""
    masks = some_uncovered()
    query, key, value = torch.randn(3, 1, 2, 48, 16).unbind(0)
    modulation = Modulation.region_mask(3, decay=0.2)
    left_out = SpaceTimeLayout.from_masks(masks).tokens(4, 4).region[0] == 0
    for rest in (False, True):
        tokens = SpaceTimeLayout.from_masks(masks, rest=rest).tokens(4, 4)
        out = layout_attention(query, key, value, tokens, modulation=modulation, backend=backend)
        if not rest:
            assert not out[:, :, left_out].any()
    bits = torch.ones(int(left_out.sum()), dtype=torch.int32)
    alone = TokenLayout(bits, tokens.frame[0][left_out], 3)
    parts = (part[:, :, left_out] for part in (query, key, value))
    expected = reference.layout_attention(*parts, alone, modulation=modulation)
    assert torch.allclose(out[:, :, left_out], expected, atol=1e-6)
