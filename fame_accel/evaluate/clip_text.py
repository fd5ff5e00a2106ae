"""Fit of frames to a prompt, and embeddings of frames, by a CLIP model from a local folder."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fame_accel.media.frames import check_frames
from fame_accel.media.loading import LOCAL, load_transformers_model, loading
from fame_accel.media.packages import has_vocabulary, require
from fame_accel.media.weights import find_weights, read_json

if TYPE_CHECKING:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

BATCH = 16


class Clip:
    """A CLIP model (Radford et al., ICML 2021) with its tokenizer and image preprocessing.

    Args:
        model, tokenizer, image_processor: objects of transformers; `from_folder` loads them.
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, image_processor: CLIPImageProcessor) -> None:
        self.model, self.tokenizer, self.image_processor = model.eval(), tokenizer, image_processor

    @classmethod
    def from_folder(cls, folder: str | PathLike[str], device: str | torch.device = "cpu") -> Clip:
        """Load a folder that transformers' save_pretrained wrote: config, safetensors, tokenizer, image processor.

        Nothing is downloaded, and pickled weights are refused.

        Raises:
            ValueError: the folder or a part of it is missing, or it holds another kind of model.
            ImportError: transformers is missing.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"the CLIP folder {folder} does not exist")
        weights = find_weights(folder, "model", "--clip")
        for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
            # without its config, transformers would build a part from defaults
            if not (folder / name).is_file():
                raise ValueError(f"the CLIP folder {folder} lacks {name}")
        if (kind := read_json(folder / "config.json", "--clip").get("model_type")) != "clip":
            raise ValueError(f"the CLIP folder {folder} must hold a model of type 'clip', got {kind!r}")
        if not has_vocabulary(folder):
            raise ValueError(f"the CLIP folder {folder} holds no vocabulary, tokenizer.json or vocab.json")
        transformers = require("transformers", extra="evaluate")
        model = load_transformers_model("CLIPModel", folder, weights, torch.float32, "--clip")
        with loading(f"--clip: {folder}"):
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, **LOCAL)
            image_processor = transformers.CLIPImageProcessor.from_pretrained(folder, **LOCAL)
        return cls(model.to(device), tokenizer, image_processor)

    @torch.no_grad()
    def embed_frames(self, frames: Tensor) -> Tensor:
        """Embed frames, uint8 [F, H, W, 3], RGB, as float32 [F, C] on the CPU; the embeddings are not normalized."""
        check_frames(frames)
        embeddings = []
        for batch in frames.cpu().split(BATCH):
            pixels = self.image_processor(list(batch.numpy()), return_tensors="pt", input_data_format="channels_last")
            pixels = pixels["pixel_values"].to(self.model.device, self.model.dtype)
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            embeddings.append(self.model.visual_projection(pooled).float().cpu())
        return torch.cat(embeddings)

    @torch.no_grad()
    def embed_text(self, prompt: str) -> Tensor:
        """Embed a prompt as float32 [C] on the CPU; ValueError where it has more tokens than the model takes."""
        tokens = self.tokenizer(prompt, return_tensors="pt").to(self.model.device)
        length, limit = tokens["input_ids"].shape[1], self.model.config.text_config.max_position_embeddings
        if length > limit:
            raise ValueError(f"the prompt has {length} tokens, start and end included; CLIP takes {limit}")
        pooled = self.model.text_model(**tokens).pooler_output
        return self.model.text_projection(pooled)[0].float().cpu()


def text_alignment(frame_embeddings: Tensor, text_embedding: Tensor) -> float:
    """Return the mean over frames of 100 * max(cosine, 0): CLIPScore without its factor 2.5, 0 to 100, higher is
    better.

    Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", EMNLP 2021.

    Args:
        frame_embeddings: floating [F, C].
        text_embedding: floating [C].

    Raises:
        ValueError: the shapes do not fit.
    """
    shapes = list(frame_embeddings.shape), list(text_embedding.shape)
    if len(shapes[0]) != 2 or not len(frame_embeddings) or shapes[0][1:] != shapes[1]:
        raise ValueError(f"frame_embeddings must be [F, C] and text_embedding [C], got {shapes[0]} and {shapes[1]}")
    cosines = cosine_similarity(frame_embeddings.double(), text_embedding.double()[None], dim=1)
    return 100 * cosines.clamp(min=0).mean().item()
