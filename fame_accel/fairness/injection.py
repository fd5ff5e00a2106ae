"""Temporary shifts of a text encoder's input embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shift = tuple[Tensor, Tensor]
"""Positions, bool [T], and the vector that is added to the input embeddings there, float [C]."""


def embedding_module(text_encoder: PreTrainedModel) -> nn.Module:
    """The module that embeds the tokens: T5's stack calls one of its own, tied to the model's."""
    stack = getattr(text_encoder, "encoder", None)
    return getattr(stack, "embed_tokens", None) or text_encoder.get_input_embeddings()


@contextmanager
def injected(text_encoder: PreTrainedModel, shifts: Sequence[Shift]) -> Iterator[None]:
    """Within the block, shift the input embeddings [B, T, C] of a text encoder.

    A forward hook adds the shifts in float32 and rounds once, to the dtype of the embeddings. Embeddings at other
    positions keep their bits, and no weight changes. The hook is removed at the end, also after an exception.

    Raises:
        RuntimeError: the encoder did not call its input embeddings, so nothing was injected.
    """
    if not shifts:
        yield
        return
    calls = 0

    def shift(_module: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        touched = shifts[0][0]
        total = output.float()
        for positions, displacement in shifts:
            touched = touched | positions
            total = total + positions.to(output.device)[:, None] * displacement.to(output.device).float()
        return total.to(output.dtype).where(touched.to(output.device)[:, None], output)

    handle = embedding_module(text_encoder).register_forward_hook(shift)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise RuntimeError(f"{type(text_encoder).__name__} did not call its input embeddings: nothing was injected")
