"""`fame-accel plan`: memory, work and predicted time of an edit's self-attention, counted before anything runs.

network: the attention layers of a UNet. regions, pairs: the pairs of tokens and tiles of one layer. memory: what a call
holds at its peak. cycle_model, predicted: its time on chips that nothing was run on. estimate: a whole UNet.
footprint, whole: the networks around it, and an edit with them. video_models, video, video_plan: video transformers.
table, chart, report: the figures as text, pictures and files.
"""

from fame_accel.core.presets import MODULATIONS as _PRESETS

FUSED = ("triton", "sdpa")  # backends to plan for
MOST_FRAMES = 100_000
# A plan counts pairs by their regions, so it takes the modulations that exclude none for their frames.
MODULATIONS = tuple(name for name, preset in _PRESETS.items() if not preset.selects_frames)
