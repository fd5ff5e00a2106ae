"""Measuring attention against what one would use instead: operations, shapes, providers, and how they are timed."""

MODULATIONS = ("fame", "fame-strength", "videograin", "region-mask")  # of `fame-accel bench`
MOST_FRAMES = 1024
SECONDS = 100.0  # that measuring takes by default
