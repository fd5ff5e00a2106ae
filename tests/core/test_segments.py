"""segment_attention: joined sequences, each pair modulated alone, against the formula written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fame_accel import Modulation, TokenLayout, layout_attention, reference
from fame_accel.core.parity import error
from fame_accel.core.segments import Pair, Segment, segment_attention, segment_attention_op

B, H, D = 2, 2, 16
FRAMES, VIDEO, TEXT = 3, 24, 5


def _video() -> TokenLayout:
    region = torch.randint(0, 4, (VIDEO,), generator=torch.Generator().manual_seed(0))
    return TokenLayout(region, torch.arange(VIDEO) * FRAMES // VIDEO, FRAMES)


def _text() -> TokenLayout:
    return TokenLayout(torch.tensor([3, 1, 2, 0, 1]), torch.zeros(TEXT, dtype=torch.int32), 1)


def _sides(tokens: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(torch.randn(B, H, tokens, D, dtype=dtype) for _ in range(3))


def _pairs(strength: bool = True) -> tuple[Pair, Pair]:
    rows = torch.rand(2, 1, VIDEO)
    to_self = Modulation.fame(FRAMES, 0.3) if strength else Modulation.region_mask(FRAMES, 0.3, leakage=0.1)
    return Pair(to_self, rows[0]), Pair(Modulation.videograin(FRAMES, 1), rows[1], torch.rand(1, TEXT))


def _weights(logits: Tensor, layouts: tuple[TokenLayout, TokenLayout], pair: Pair) -> Tensor:
    """z of the keys of one pair, with extremes over these keys alone."""
    query, key = layouts
    same = (query.region[0][:, None] & key.region[0][None, :]) != 0
    pick = (same.long(), query.frame[0].long()[:, None], key.frame[0].long()[None, :])
    zeros = torch.zeros(2, query.num_frames, key.num_frames)
    strength, bias = (
        (zeros if table is None else table)[pick].to(logits)
        for table in (pair.modulation.strength_table, pair.modulation.bias_table)
    )
    for factor in (pair.row_strength, None if pair.key_weight is None else pair.key_weight[:, None]):
        strength = strength * (1 if factor is None else factor.transpose(-1, -2) if factor.dim() == 2 else factor[0])
    high, low = logits.amax(-1, keepdim=True), logits.amin(-1, keepdim=True)
    return logits + strength * (torch.where(same, high, low) - logits) + bias


@pytest.mark.parametrize("backend", ["reference", "sdpa", pytest.param("triton", marks=pytest.mark.slow)])
@pytest.mark.parametrize("text_first", [True, False])
@pytest.mark.parametrize("strength", [True, False])
def test_equals_the_formula(backend: str, text_first: bool, strength: bool):
    query, key, value = _sides(VIDEO + TEXT + 2)  # two tokens of padding, which no segment of keys holds
    video, text = _video(), _text()
    start, text_at = (TEXT + 2, torch.arange(TEXT)) if text_first else (0, torch.arange(TEXT) + VIDEO)
    to_self, to_text = _pairs(strength)
    around = Segment(TokenLayout(torch.zeros(TEXT + 2).int(), torch.zeros(TEXT + 2).int(), 1))
    queries = [around, Segment(video)] if text_first else [Segment(video), around]
    pairs = [[to_self, to_text], [Pair(), Pair()]]
    pairs = pairs[::-1] if text_first else pairs
    keys = [Segment(video, start), Segment(text, 0, text_at)]

    logits = D**-0.5 * query @ key.transpose(-1, -2)
    video_at = torch.arange(VIDEO) + start
    z = torch.full_like(logits, -torch.inf)
    for positions in (video_at, text_at):
        z[..., positions] = logits[..., positions]
    z[:, :, video_at[:, None], video_at] = _weights(logits[:, :, video_at[:, None], video_at], (video, video), to_self)
    z[:, :, video_at[:, None], text_at] = _weights(logits[:, :, video_at[:, None], text_at], (video, text), to_text)
    wanted = z.softmax(-1) @ value

    if backend == "reference":
        got = segment_attention(query, key, value, queries, keys, pairs, None, backend)
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)  # strengths are float32
    sides = [side.float() for side in (query, key, value)]
    got = segment_attention(*sides, queries, keys, pairs, None, backend)
    assert got.dtype == torch.float32 and error(got, wanted)[0] < 1e-5


def test_one_segment_is_layout_attention():
    sides, video = _sides(VIDEO, torch.float32), _video()
    pair, _ = _pairs()
    got = segment_attention(*sides, [Segment(video)], [Segment(video)], [[pair]], 0.3, "sdpa")
    wanted = layout_attention(*sides, video, modulation=pair.modulation, row_strength=pair.row_strength[0], scale=0.3)
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("plain", [0, 1, 2])
def test_plain_items(plain: int):
    """Items before plain_items attend plainly to the keys that the segments hold."""
    sides = _sides(VIDEO + TEXT, torch.float32)
    video = _video()
    kept = torch.tensor([0, 2, 3])
    text = TokenLayout(_text().region[0, kept], _text().frame[0, kept], 1)
    to_self, to_text = _pairs()
    keys = [Segment(video), Segment(text, 0, kept + VIDEO)]
    around = Segment(TokenLayout(torch.zeros(TEXT).int(), torch.zeros(TEXT).int(), 1))
    pairs = [[to_self, Pair(to_text.modulation, to_text.row_strength)], [Pair(), Pair()]]
    run = [*sides, [Segment(video), around], keys, pairs, None, "sdpa"]
    got = segment_attention(*run, torch.tensor([plain]))
    modulated = segment_attention(*run)
    held = torch.cat([torch.arange(VIDEO), kept + VIDEO])
    unmodulated = torch.nn.functional.scaled_dot_product_attention(sides[0], sides[1][:, :, held], sides[2][:, :, held])
    assert error(got[:plain], unmodulated[:plain])[0] < 2e-6
    assert error(got[plain:], modulated[plain:])[0] < 2e-6
    assert error(modulated, unmodulated)[0] > 1e-3


def test_a_strong_token_of_text_leaves_the_extremes_of_the_video_alone():
    sides = list(_sides(VIDEO + TEXT))
    sides[1][:, :, VIDEO] *= 50
    video, text = _video(), _text()
    around = Segment(TokenLayout(torch.zeros(TEXT).int(), torch.zeros(TEXT).int(), 1))
    pair = Pair(Modulation.videograin(FRAMES), torch.ones(1, VIDEO))
    got = segment_attention(
        *sides, [Segment(video), around], [Segment(video), Segment(text, VIDEO)], [[pair, Pair()], [Pair(), Pair()]],
        None, "reference",
    )  # fmt: skip
    parts = [
        reference.layout_attention(
            sides[0][:, :, :VIDEO], sides[1][:, :, keys], sides[2][:, :, keys], video, layout, modulation,
            return_lse=True,
        )
        for keys, layout, modulation in (
            (slice(0, VIDEO), video, pair.modulation), (slice(VIDEO, None), text, None)
        )
    ]  # fmt: skip
    lse = torch.stack([part[1] for part in parts])
    shares = (lse - lse.logsumexp(0)).exp()[..., None]
    wanted = sum(share * part[0] for share, part in zip(shares, parts, strict=True))
    torch.testing.assert_close(got[:, :, :VIDEO], wanted, rtol=1e-6, atol=1e-7)


def test_the_operator_is_sound():
    sides, video, text = _sides(VIDEO + TEXT, torch.float32), _video(), _text()
    around = TokenLayout(torch.zeros(TEXT).int(), torch.zeros(TEXT).int(), 1)
    rows = torch.rand(1, VIDEO)
    fame = Modulation.fame(FRAMES)
    torch.library.opcheck(
        segment_attention_op,
        (
            *sides, [video.region, around.region], [video.frame, around.frame], [FRAMES, 1],
            [video.region, text.region], [video.frame, text.frame], [FRAMES, 1], [0, VIDEO], [None, None],
            [fame.strength_table, None, None, None], [fame.bias_table, None, None, None], [rows, None, None, None],
            [None] * 4, 0.25, "sdpa", None,
        ),
    )  # fmt: skip


def test_autocast_keeps_the_accuracy_of_its_inputs():
    sides, video = _sides(VIDEO, torch.float32), _video()
    pair, _ = _pairs()
    arguments = (*sides, [Segment(video)], [Segment(video)], [[pair]], None, "sdpa")
    with torch.autocast("cpu", torch.bfloat16):
        got = segment_attention(*arguments)
    assert torch.equal(got, segment_attention(*arguments))
