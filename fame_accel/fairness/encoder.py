"""A tokenizer and a text encoder, called as diffusers' pipelines call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fame_accel.fairness.injection import Shift, injected
from fame_accel.fairness.tokens import TokenizedPrompt, max_length, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Encoder:
    """What encodes a prompt, and which of the encoder's hidden states is taken.

    CLIP's encoders get their prompt padded to the limit, and a mask of the padding only if their config has
    use_attention_mask. Others get no padding.

    hidden_layer: index from the end; -1 is the encoder's output, -2 the penultimate hidden state.
    final_norm: apply CLIP's final layer norm to an earlier hidden state, too.
    """

    tokenizer: PreTrainedTokenizerBase
    text_encoder: PreTrainedModel
    hidden_layer: int = -1
    final_norm: bool = False
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        layers = self.text_encoder.config.num_hidden_layers
        if type(self.hidden_layer) is not int or not -layers - 1 <= self.hidden_layer <= -1:
            raise ValueError(
                f"hidden_layer must be an int from {-layers - 1} to -1 for this encoder of {layers} layers, "
                f"got {self.hidden_layer!r}"
            )
        if self.final_norm and self.hidden_layer == -1:
            raise ValueError("final_norm is for an earlier hidden_layer: -1 is the encoder's output, normed already")
        if self.final_norm and not hasattr(self._text_model, "final_layer_norm"):
            raise ValueError(f"final_norm needs a final_layer_norm, which {type(self.text_encoder).__name__} lacks")

    @property
    def is_clip(self) -> bool:
        return self.text_encoder.config.model_type == "clip_text_model"

    @property
    def _text_model(self) -> torch.nn.Module:
        return getattr(self.text_encoder, "text_model", self.text_encoder)

    @property
    def _input_device(self) -> torch.device | str:
        if self.device is not None:
            return self.device
        own = self.text_encoder.device
        return "cpu" if own.type == "meta" else own  # offloaded weights: accelerate's hook moves the inputs

    def tokenize(self, prompt: str, pad: bool = False) -> TokenizedPrompt:
        """Tokenize a prompt; with ``pad``, as the encoder is given it in a pipeline."""
        limit = max_length(self.tokenizer, getattr(self.text_encoder.config, "max_position_embeddings", None))
        return tokenize(self.tokenizer, prompt, limit, pad and self.is_clip)

    @torch.no_grad()
    def __call__(self, prompt: TokenizedPrompt, shifts: Sequence[Shift] = ()) -> tuple[Tensor, Tensor | None]:
        """Hidden state [1, T, C] and pooled embedding [1, P], None where the encoder has none."""
        masked = not self.is_clip or getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = prompt.attention_mask[None].to(self._input_device) if masked else None
        earlier = self.hidden_layer != -1
        with injected(self.text_encoder, shifts):
            output = self.text_encoder(
                prompt.ids[None].to(self._input_device), attention_mask=mask, output_hidden_states=earlier
            )
        hidden = output.hidden_states[self.hidden_layer] if earlier else output.last_hidden_state
        if self.final_norm:
            hidden = self._text_model.final_layer_norm(hidden)
        pooled = getattr(output, "text_embeds", None)  # of an encoder with projection
        return hidden, getattr(output, "pooler_output", None) if pooled is None else pooled

    @torch.no_grad()
    def input_embedding(self, phrase: str) -> Tensor:
        """float32 [C]: the mean of the input embeddings of a phrase's tokens."""
        tokens = self.tokenize(phrase)
        ids = tokens.ids[tokens.content()].to(self._input_device)
        # called, not indexed: its weight may be offloaded or have a LoRA
        return self.text_encoder.get_input_embeddings()(ids).float().mean(0)
