"""`fame-accel demo`: the same edit of a real clip with eager and with fused attention, compared."""
