"""What joins and divides attention: merged parts, joined layouts and modulations, frames named more than once, mass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fame_accel import (
    Modulation,
    SpaceTimeLayout,
    TokenLayout,
    attention_mass,
    layout_attention,
    merge_attention,
    reference,
)
from fame_accel.core.parity import error

B, H, D, F, N = 2, 2, 16, 3, 24


def _layout(tokens: int = N, frames: int = F, seed: int = 0) -> TokenLayout:
    generator = torch.Generator().manual_seed(seed)
    region = torch.randint(0, 4, (tokens,), generator=generator)
    return TokenLayout(region, torch.arange(tokens) * frames // tokens, frames)


def _qkv(keys: int = N, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(B, H, N, D, dtype=dtype), *(torch.randn(B, H, keys, D, dtype=dtype) for _ in range(2))


class TestMergeAttention:
    @pytest.mark.parametrize("cuts", [(), (5,), (5, 5), (1, 9, 20)])
    def test_parts_of_the_keys_merge_to_the_whole(self, cuts: tuple[int, ...]):
        query, key, value = _qkv()
        layout, mask = _layout(), Modulation.region_mask(F, decay=0.3)
        whole = reference.layout_attention(query, key, value, layout, modulation=mask, return_lse=True)
        parts = []
        for start, stop in zip((0, *cuts), (*cuts, N), strict=True):
            keys = TokenLayout(layout.region[0, start:stop], layout.frame[0, start:stop], F)
            part = (key[:, :, start:stop], value[:, :, start:stop])
            parts.append(reference.layout_attention(query, *part, layout, keys, mask, return_lse=True))
        for got, wanted in zip(merge_attention(parts), whole, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)

    def test_rows_without_keys_are_zero(self):
        out, lse = torch.randn(1, 1, 2, 4), torch.full((1, 1, 2), -math.inf)
        merged, total = merge_attention([(torch.zeros_like(out), lse), (torch.zeros_like(out), lse)])
        assert (merged == 0).all() and (total == -math.inf).all()
        some = lse.clone()
        some[..., 0] = 300.0  # far beyond exp's range
        merged, total = merge_attention([(torch.zeros_like(out), lse), (out, some)])
        assert torch.equal(merged[..., 0, :], out[..., 0, :]) and (merged[..., 1, :] == 0).all()
        assert total.tolist() == [[[300.0, -math.inf]]]

    def test_half_precision_is_merged_in_float32(self):
        parts = [(torch.full((1, 1, 1, 4), x, dtype=torch.float16), torch.zeros(1, 1, 1)) for x in (1.0, 2.0, 1.0)]
        out, lse = merge_attention(parts)
        assert out.dtype == torch.float16 and lse.dtype == torch.float32
        torch.testing.assert_close(out.float(), torch.full((1, 1, 1, 4), 4 / 3), rtol=1e-3, atol=0)

    @pytest.mark.parametrize(
        ("parts", "kind", "message"),
        [
            ([], ValueError, "at least one"),
            (torch.ones(2), ValueError, "at least one"),
            ([torch.ones(1, 1, 1, 1)], TypeError, "return_lse=True"),
            ([(torch.ones(1, 1, 1, 1), None)], TypeError, "return_lse=True"),
            ([(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 4))], ValueError, r"\[B, H, Nq\]"),
            ([(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3))] * 1 + [(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2))],
             ValueError, r"parts\[1\] must have the shape"),
            ([(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3)), (torch.ones(1, 1, 3, 4).half(), torch.ones(1, 1, 3))],
             ValueError, r"parts\[1\] must have the dtype"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused(self, parts: object, kind: type[Exception], message: str):
        with pytest.raises(kind, match=message):
            merge_attention(parts)


class TestJoining:
    def test_blocks_equal_one_attention_over_the_joined_sequences(self):
        video, text = _layout(), TokenLayout(torch.tensor([1, 2, 3]), torch.tensor([0, 0, 1]), 2)
        joined = TokenLayout.cat([text, video])
        assert (joined.num_tokens, joined.num_frames, joined.batch) == (N + 3, F + 2, None)
        assert joined.frame[0, :3].tolist() == [0, 0, 1] and int(joined.frame[0, 3:].min()) == 2
        blocks = [[None, None], [Modulation.exclude(F, 2), Modulation.fame(F, decay=0.2)]]
        modulation = Modulation.block(blocks, (2, F), (2, F))
        tokens = N + 3
        query, key, value = (torch.randn(B, H, tokens, D, dtype=torch.float64) for _ in range(3))
        got = reference.layout_attention(query, key, value, joined, modulation=modulation)
        for rows, keys, layout, block in (
            (slice(0, 3), slice(None), joined, None),
            (slice(3, None), slice(3, None), video, Modulation.fame(F, decay=0.2)),
        ):
            queries = text if rows.start == 0 else video
            wanted = reference.layout_attention(
                query[:, :, rows], key[:, :, keys], value[:, :, keys], queries, layout, block
            )
            torch.testing.assert_close(got[:, :, rows], wanted, rtol=1e-12, atol=1e-12)

    def test_layouts_with_a_batch(self):
        many = TokenLayout(torch.ones(B, 4, dtype=torch.int32), torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1]]), 2)
        joined = TokenLayout.cat([_layout(), many])
        assert joined.batch == B and joined.num_tokens == N + 4
        assert joined.frame[:, N:].tolist() == [[3, 3, 3, 4], [3, 4, 4, 4]]
        assert torch.equal(joined.region[1, :N], _layout().region[0])

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(TypeError, match="layouts must hold at least one TokenLayout"):
            TokenLayout.cat([])
        with pytest.raises(TypeError, match="layouts must hold at least one TokenLayout"):
            TokenLayout.cat([_layout(), None])
        rows = [TokenLayout(torch.ones(b, 2, dtype=torch.int32), torch.zeros(b, 2).int(), 1) for b in (2, 3)]
        with pytest.raises(ValueError, match="layouts must have one batch, got 2, 3"):
            TokenLayout.cat(rows)
        with pytest.raises(ValueError, match="layouts must have one device"):
            TokenLayout.cat([_layout(), _layout().to("meta")])
        with pytest.raises(ValueError, match="blocks must be 2 rows of 2"):
            Modulation.block([[None, None]], (1, 2), (1, 2))
        with pytest.raises(TypeError, match="blocks must be rows of modulations, got NoneType"):
            Modulation.block(None, (1,), (1,))
        with pytest.raises(TypeError, match=r"blocks\[0\]\[1\] must be a Modulation or None, got bool"):
            Modulation.block([[None, False]], (1,), (1, 2))
        with pytest.raises(ValueError, match=r"blocks\[0\]\[0\] must have tables for \(query, key\) frames \(2, 2\)"):
            Modulation.block([[Modulation.fame(3)]], (2,), (2,))


class TestTemporalCompression:
    def test_first_frame_alone_then_any_of_each_group(self):
        masks = torch.zeros(2, 9, 2, 2, dtype=torch.bool)
        masks[0, 0] = masks[0, 4, 0, 0] = masks[0, 5, 1, 1] = masks[1, 8, 0, 1] = True
        region = SpaceTimeLayout.from_masks(masks, temporal=4).tokens(2, 2).region.view(3, 4).tolist()
        assert region == [[1, 1, 1, 1], [1, 0, 0, 0], [0, 2, 0, 1]]

    def test_the_rest_is_what_all_frames_of_a_group_leave_out(self):
        masks = torch.zeros(1, 5, 1, 2, dtype=torch.bool)
        masks[0, 3, 0, 0] = True
        layout = SpaceTimeLayout.from_masks(masks, rest=True, temporal=4)
        assert layout.num_frames == 2 and layout.tokens(1, 2).region.tolist() == [[2, 2, 1, 2]]

    @pytest.mark.parametrize("frames", [1, 5])
    def test_one_is_no_compression(self, frames: int):
        masks = torch.rand(2, frames, 3, 3) > 0.5
        plain, one = (SpaceTimeLayout.from_masks(masks, **given) for given in ({}, {"temporal": 1}))
        assert plain.tokens(3, 3) == one.tokens(3, 3)

    def test_what_does_not_divide_is_refused(self):
        with pytest.raises(ValueError, match="masks has 8 frames, but temporal=4 wants .*: 5 or 9"):
            SpaceTimeLayout.from_masks(torch.ones(1, 8, 2, 2, dtype=torch.bool), temporal=4)
        for temporal in (0, True, 2.0):
            with pytest.raises(ValueError, match="temporal must be an int >= 1"):
                SpaceTimeLayout.from_masks(torch.ones(1, 5, 2, 2, dtype=torch.bool), temporal=temporal)


def _by_concatenation(query: Tensor, key: Tensor, value: Tensor, frames: list[list[int]]) -> Tensor:
    """The keys of the named frames concatenated, as the methods' own code does it."""
    by_frame = [x.unflatten(2, (F, -1)) for x in (query, key, value)]
    outs = []
    for frame, named in enumerate(frames):
        keys, values = (x[:, :, named].flatten(2, 3) for x in by_frame[1:])
        outs.append(torch.nn.functional.scaled_dot_product_attention(by_frame[0][:, :, frame], keys, values))
    return torch.cat(outs, 2)


@pytest.mark.parametrize(
    ("keep", "frames"),
    [
        ("self_previous_first", [[0, 0, 0], [1, 0, 0], [2, 1, 0]]),
        ([[0, 0, 0], [1, 0, 0], [2, 1, 0]], [[0, 0, 0], [1, 0, 0], [2, 1, 0]]),
        (torch.tensor([[0, 1], [1, 1], [2, 0]]), [[0, 1], [1, 1], [2, 0]]),
        ([0, 0, 2], [[0, 0, 2]] * 3),
        ([[0], [0, 1, 1], [2]], [[0], [0, 1, 1], [2]]),
        ("first_previous", [[0], [0], [0, 1]]),
    ],
)
def test_key_frames_named_more_than_once_count_as_often(keep: object, frames: list[list[int]]):
    query, key, value = _qkv()
    wanted = _by_concatenation(query, key, value, frames)
    modulation = Modulation.frames(F, keep)
    got = reference.layout_attention(query, key, value, _layout(), modulation=modulation)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)  # log 2 and log 3 are float32
    fused = layout_attention(query.float(), key.float(), value.float(), _layout(), modulation=modulation)
    assert error(fused, wanted)[0] < 1e-5


@pytest.mark.parametrize(
    ("keep", "kind", "message"),
    [
        ([[0], [1]], ValueError, "each of 3 query frames, got 2"),
        ([[0], [1], [3]], ValueError, r"frame indices in \[0, 3\)"),
        ([[0], [1], []], TypeError, "keep must be"),
        ([[0], [1], [0.5]], TypeError, "keep must be"),
        (torch.tensor([[0.5]] * 3), TypeError, "keep must be"),
    ],
)
def test_key_frames_that_do_not_fit_are_refused(keep: object, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        Modulation.frames(F, keep)


class TestAttentionMass:
    @pytest.mark.parametrize("count", [1, 5, D, 2 * D + 3])
    @pytest.mark.parametrize("batched", [False, True])
    def test_equals_the_sum_of_the_weights(self, count: int, batched: bool):
        query, key, _ = _qkv()
        layout, modulation = _layout(), Modulation.fame(F, decay=0.2)
        rows = layout.size_regularization() / 2
        groups = torch.rand(*((B,) if batched else ()), count, N) > 0.5
        identity = torch.eye(N, dtype=torch.float64).expand(B, H, -1, -1)
        wide = [torch.nn.functional.pad(x, (0, N - D)) for x in (query, key)]
        weights = reference.layout_attention(
            *wide, identity, layout, modulation=modulation, row_strength=rows, scale=D**-0.5
        )
        wanted = weights @ (groups if batched else groups[None])[:, None].double().transpose(-1, -2)
        options = {"modulation": modulation, "row_strength": rows}
        got = attention_mass(query, key, groups, layout, **options, backend="reference")
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
        fused = attention_mass(query.float(), key.float(), groups, layout, **options)
        assert fused.shape == (B, H, N, count) and error(fused, wanted)[0] < 1e-5

    def test_every_key_in_one_group_sums_to_one(self):
        query, key, _ = _qkv(dtype=torch.float32)
        groups = torch.eye(F, dtype=torch.bool).repeat_interleave(N // F, 1)
        mass = attention_mass(query, key, groups, _layout())
        torch.testing.assert_close(mass.sum(-1), torch.ones(B, H, N))
        assert attention_mass(query, key, groups[:0], _layout()).shape == (B, H, N, 0)

    @pytest.mark.parametrize(
        ("groups", "kind", "message"),
        [
            (torch.ones(2, N), TypeError, "groups must be a bool tensor .* got torch.float32"),
            (None, TypeError, "got NoneType"),
            (torch.ones(N, dtype=torch.bool), ValueError, "groups must have shape"),
            (torch.ones(2, N + 1, dtype=torch.bool), ValueError, "groups must have shape"),
            (torch.ones(3, 2, N, dtype=torch.bool), ValueError, "groups must have shape"),
            (torch.ones(2, N, dtype=torch.bool, device="meta"), ValueError, "groups must be on the device of key"),
        ],
    )
    def test_groups_that_do_not_fit_are_refused(self, groups: object, kind: type[Exception], message: str):
        query, key, _ = _qkv(dtype=torch.float32)
        with pytest.raises(kind, match=message):
            attention_mass(query, key, groups, _layout())
