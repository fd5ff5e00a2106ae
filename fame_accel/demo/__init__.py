"""What `fame-accel demo` does: the same edit of a real clip with eager and with fused attention, compared."""
