"""Measuring attention against what one would use instead: operations, shapes, providers, and how they are timed."""
