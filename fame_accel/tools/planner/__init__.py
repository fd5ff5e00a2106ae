"""`fame-accel plan`: memory, work and predicted time of an edit's self-attention, counted before anything runs.

network: the attention layers of a UNet; regions, pairs: the pairs of tokens and tiles of one layer; memory: what a
call holds at its peak, backend by backend; predicted: times from the static cycle model; estimate: a whole UNet; table,
chart: how it is told; command: the flags.
"""
