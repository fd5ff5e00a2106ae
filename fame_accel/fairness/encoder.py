"""A tokenizer and a text encoder, called as diffusers' pipelines call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from fame_accel.fairness.injection import Shift, embedding_module, injected
from fame_accel.fairness.tokens import TokenizedPrompt, max_length, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Encoder:
    """A tokenizer, a text encoder, and the hidden state that is taken.

    For CLIP's encoders the prompt is padded to the limit, and the padding is masked only if the config has
    use_attention_mask. For others nothing is padded.

    Attributes:
        tokenizer, text_encoder: of transformers.
        hidden_layer: index from the end: -1 is the encoder's output, -2 the penultimate hidden state.
        final_norm: apply CLIP's final layer norm to an earlier hidden state.
        device: device of the inputs; None is the encoder's.

    Raises:
        ValueError: ``hidden_layer`` or ``final_norm`` does not fit the encoder.
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
            raise ValueError(
                "final_norm needs a hidden_layer before -1, the encoder's output, which is normalized already"
            )
        if self.final_norm and not hasattr(self._text_model, "final_layer_norm"):
            raise ValueError(f"final_norm needs a final_layer_norm, which {type(self.text_encoder).__name__} lacks")

    @property
    def is_clip(self) -> bool:
        """Whether this is one of CLIP's text encoders."""
        return self.text_encoder.config.model_type == "clip_text_model"

    @property
    def _text_model(self) -> Any:
        return getattr(self.text_encoder, "text_model", self.text_encoder)

    @property
    def _input_device(self) -> torch.device | str:
        if self.device is not None:
            return self.device
        own = self.text_encoder.device
        return "cpu" if own.type == "meta" else own  # with offloaded weights, accelerate's hook moves the inputs

    def tokenize(self, prompt: str, pad: bool = False) -> TokenizedPrompt:
        """Tokenize a prompt. With ``pad``, CLIP's encoders get it padded, as in a pipeline."""
        limit = max_length(self.tokenizer, getattr(self.text_encoder.config, "max_position_embeddings", None))
        tokens = tokenize(self.tokenizer, prompt, limit, pad and self.is_clip)
        entries = cast(torch.nn.Embedding, embedding_module(self.text_encoder)).num_embeddings
        if (largest := int(tokens.ids.max())) >= entries:
            raise ValueError(
                f"the tokenizer must fit the text encoder, which embeds {entries} tokens, got token {largest}: "
                "resize_token_embeddings() adds what is missing"
            )
        return tokens

    @torch.no_grad()
    def __call__(self, prompt: TokenizedPrompt, shifts: Sequence[Shift] = ()) -> tuple[Tensor, Tensor | None]:
        """Encode a prompt, with shifts of its input embeddings.

        Returns:
            The hidden state [1, T, C], and the pooled embedding [1, P] or None if the encoder has none.
        """
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
        pooled = getattr(output, "text_embeds", None)  # of an encoder with a projection
        return hidden, getattr(output, "pooler_output", None) if pooled is None else pooled

    @torch.no_grad()
    def input_embedding(self, phrase: str) -> Tensor:
        """Return the mean input embedding of a phrase's tokens, float32 [C]."""
        tokens = self.tokenize(phrase)
        ids = tokens.ids[tokens.content()].to(self._input_device)
        # the module is called, as its weight may be offloaded or have a LoRA
        return embedding_module(self.text_encoder)(ids).float().mean(0)
