"""A video transformer's memory under FAME attention grows with the number of tokens, not with its square."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import run_python

_EDIT = """
import resource
import diffusers, torch
from fame_accel import FameConfig, Modulation, SpaceTimeLayout, apply_fame

torch.set_grad_enabled(False)
torch.set_num_threads(1)
frames, height, width = 21, 30, 52  # of Wan's latents: 81 frames of 832x480 pixels
model = diffusers.WanTransformer3DModel(
    patch_size=(1, 2, 2), num_attention_heads=1, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=8,
    freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=64,
)
inputs = dict(
    hidden_states=torch.randn(1, 4, frames, 2 * height, 2 * width), timestep=torch.tensor([900]),
    encoder_hidden_states=torch.randn(1, 512, 8),
)
masks = torch.zeros(2, frames, height, width, dtype=torch.bool)
masks[0, ..., :20] = True
masks[1] = ~masks[0]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
model(**inputs)
plain = peak()
config = FameConfig(
    SpaceTimeLayout.from_masks(masks), Modulation.fame(frames), token_regions=torch.ones(512, dtype=torch.int32),
    active_fraction=1.0,
)
with apply_fame(model, config):
    model(**inputs)
print(frames * height * width, peak() - plain)
"""


@pytest.mark.slow
def test_memory_of_a_wan_block_is_linear_in_its_tokens(tmp_path: Path):
    tokens, growth = map(int, run_python("-c", _EDIT, cwd=tmp_path).split()[-2:])
    assert tokens == 32_760
    one_map = 4 * tokens**2  # bytes of the logits that the eager formula keeps, several times over
    assert growth < one_map / 10
