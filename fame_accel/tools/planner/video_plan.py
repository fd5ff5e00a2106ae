"""What a video transformer takes, beside the levels of its self-attention: text, weights, and its share on each GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from fame_accel.tools.planner.estimate import Setting, level_bytes, level_plan_bytes
from fame_accel.tools.planner.network import AttentionLevel
from fame_accel.tools.planner.regions import Regions
from fame_accel.tools.planner.table import aligned
from fame_accel.tools.planner.video import SIDE_FLAGS, VideoModel
from fame_accel.tools.planner.whole import in_bytes

VIDEO = (
    "Counted of a forward pass: the transformer's weights, and one call of self-attention with its query, key and "
    "value. Not counted: other activations, VAE, text encoder, and what CUDA and the allocator take for themselves."
)
ULYSSES = (
    "Ulysses: each GPU holds all weights, its share of the tokens and, in self-attention, all tokens of its share of "
    "the heads. Sent: of query, key, value and out, by each GPU to the others."
)


@dataclass(frozen=True)
class RankPlan:
    """What one of several GPUs holds and sends.

    heads: that it attends with, to all tokens. tokens: that it holds outside of attention, rounded up.
    attention_bytes: the peak of a call of self-attention. layer_sent_bytes, pass_sent_bytes: by each GPU to the others.
    obstacle: why that many GPUs cannot share the heads; everything else is 0 then.
    """

    gpus: int
    heads: int = 0
    tokens: int = 0
    attention_bytes: int = 0
    layer_sent_bytes: int = 0
    pass_sent_bytes: int = 0
    obstacle: str | None = None


@dataclass(frozen=True)
class VideoPlan:
    """A forward pass of a video transformer; setting: of its self-attention, frames: of the video."""

    model: VideoModel
    setting: Setting
    frames: int
    gpus: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        model: VideoModel,
        frames: int,
        size: tuple[int, int],
        regions: Regions,
        gpus: Sequence[int] = (),
        side_flags: tuple[str, str] = SIDE_FLAGS,
        *,
        dtype: str = "bfloat16",
        modulation: str = "fame",
        guidance: bool = True,
        backend: str = "triton",
    ) -> VideoPlan:
        """Plan a video of frames of (height, width) pixels; side_flags: as VideoModel.token_grid takes them.

        Raises:
            ValueError: the model does not take the frames or the size, or no number of GPUs divides the heads.
        """
        token_frames, height, width = model.token_grid(frames, size, side_flags)
        batched = guidance and model.family.batched
        network = (model.level((height, width)),)
        setting = Setting(network, regions, token_frames, size, dtype, modulation, batched, backend)
        plan = cls(model, setting, frames, tuple(gpus))
        if gpus and all(model.heads % number for number in gpus):
            raise ValueError(f"--gpus must divide the heads of {model.name}: {plan.rank(gpus[0]).obstacle}")
        return plan

    @property
    def video_tokens(self) -> int:
        """Tokens of the video."""
        height, width = self._level().side_lengths(self.setting.size)
        return self.setting.frames * height * width

    @property
    def sequence(self) -> int:
        """Tokens of self-attention: of the video and, where it is joint, of the text."""
        return self.video_tokens + (self.model.family.text_tokens if self.model.family.joint else 0)

    @property
    def mask_bytes(self) -> int:
        """What a bool mask of all pairs would take."""
        return self.sequence**2

    @property
    def logits_bytes(self) -> int:
        """What the logits of all pairs and heads of one batch item would take."""
        return self.mask_bytes * self.model.heads * self._itemsize

    @property
    def weight_bytes(self) -> int | None:
        """None where parameters were not counted."""
        return None if self.model.parameters is None else self.model.parameters * self._itemsize

    def attention_bytes(self, gpus: int = 1) -> int:
        """The peak of a call of self-attention on each of the GPUs that share its heads.

        In joint attention, rows of the text, and parts that are merged, stand beside the call over the video: text and
        video attend in separate calls. With several GPUs, query, key and value before the exchange stand beside it.
        """
        level = self._level(gpus)
        peak = level_bytes(self.setting, level, self.setting.backend)
        row = self._batch * level.heads * level.head_dim * self._itemsize
        if self.model.family.joint:
            lse = self._batch * level.heads * 4
            peak += row * (4 * self.model.family.text_tokens + 2 * self.video_tokens) + 2 * lse * self.video_tokens
        return peak + (3 * row * self.sequence if gpus > 1 else 0)

    def cross_attention_bytes(self) -> int:
        """Query, key, value and out of a call of cross-attention; 0 where text is in self-attention."""
        if self.model.family.joint:
            return 0
        row = self._batch * self.model.heads * self.model.head_dim * self._itemsize
        return 2 * row * (self.video_tokens + self.model.family.text_tokens)

    def rank(self, gpus: int) -> RankPlan:
        """The share of one of the GPUs."""
        heads = self.model.heads
        if heads % gpus:
            divisors = ", ".join(str(number) for number in range(1, heads + 1) if heads % number == 0)
            return RankPlan(gpus, obstacle=f"{gpus} does not divide {heads} heads; {divisors} do")
        tokens = -(-self.sequence // gpus)
        sent = 4 * self._batch * tokens * heads * self.model.head_dim * self._itemsize * (gpus - 1) // gpus
        attention = self.attention_bytes(gpus)
        return RankPlan(gpus, heads // gpus, tokens, attention, sent, sent * self.model.layers)

    def as_dict(self) -> dict[str, object]:
        """The figures for JSON."""
        family = self.model.family
        return dict(
            frames=self.frames, token_frames=self.setting.frames, tokens=self.video_tokens,
            text_tokens=family.text_tokens, text_in_self_attention=family.joint, heads=self.model.heads,
            head_dim=self.model.head_dim, layers=self.model.layers, parameters=self.model.parameters,
            weight_bytes=self.weight_bytes, plan_bytes=level_plan_bytes(self.setting, self._level()),
            mask_bytes=self.mask_bytes, logits_bytes=self.logits_bytes, self_attention_bytes=self.attention_bytes(),
            cross_attention_bytes=self.cross_attention_bytes(), ranks=[asdict(self.rank(gpus)) for gpus in self.gpus],
        )  # fmt: skip

    def as_text(self, memory: float | None) -> str:
        """Tokens, memory and the table of GPUs; memory: GiB to fit, or None."""
        model, setting, text = self.model, self.setting, self.model.family.text_tokens
        height, width = self._level().side_lengths(setting.size)
        how = f"{text} text tokens in it" if model.family.joint else f"cross-attention to {text} text tokens"
        weights, attention = self.weight_bytes, self.attention_bytes()
        lines = [
            f"self-attention: {self.video_tokens:,} tokens ({setting.frames} frames of {width}x{height}), "
            f"{model.heads} heads of {model.head_dim}, {model.layers} layers; {how}",
            "",
        ]
        rows = [
            ["plan of tiles, for all layers", in_bytes(level_plan_bytes(setting, self._level()))],
            ["an N x N mask would take", in_bytes(self.mask_bytes)],
            [f"N x N logits in {setting.dtype} would take", in_bytes(self.logits_bytes)],
            ["a call of self-attention", in_bytes(attention)],
        ]
        if not model.family.joint:
            rows.append(["a call of cross-attention", in_bytes(self.cross_attention_bytes())])
        if weights is None:
            rows.append(["weights", "not counted: diffusers is not installed"])
        else:
            rows.append([f"weights, {model.parameters:,} parameters", in_bytes(weights)])
            rows.append(["weights and a call of self-attention", in_bytes(weights + attention)])
        lines.append(aligned(rows))
        if memory is not None and weights is not None:
            lines.append(f"{'fits' if weights + attention <= memory * 2**30 else 'does NOT fit'} "
                         f"{in_bytes(memory * 2**30)}")  # fmt: skip
        if self.gpus:
            lines += ["", ranks_table([self.rank(gpus) for gpus in self.gpus], weights, memory)]
        return "\n".join(lines)

    @property
    def _batch(self) -> int:
        return 2 if self.setting.guidance else 1

    @property
    def _itemsize(self) -> int:
        return int(getattr(torch, self.setting.dtype).itemsize)

    def _level(self, gpus: int = 1) -> AttentionLevel:
        return replace(self.setting.network[0], heads=self.model.heads // gpus)


def ranks_table(ranks: Sequence[RankPlan], weight_bytes: int | None, memory: float | None) -> str:
    """The table of GPUs; memory: GiB of each to fit, or None."""
    titles = ["GPUs", "heads", "tokens", "weights", "self-attention", "sent a layer", "sent a pass"]
    fitting = memory is not None and weight_bytes is not None
    rows = [titles + (["fits"] if fitting else [])]
    for rank in ranks:
        if rank.obstacle:
            continue
        sizes = [rank.attention_bytes, rank.layer_sent_bytes, rank.pass_sent_bytes]
        weights = "-" if weight_bytes is None else in_bytes(weight_bytes)
        rows.append([str(rank.gpus), str(rank.heads), f"{rank.tokens:,}", weights, *map(in_bytes, sizes)])
        if memory is not None and weight_bytes is not None:
            rows[-1].append("yes" if weight_bytes + rank.attention_bytes <= memory * 2**30 else "NO")
    obstacles = [f"{rank.gpus} GPUs: {rank.obstacle}" for rank in ranks if rank.obstacle]
    return "\n".join([aligned(rows, heading=True), *obstacles])
