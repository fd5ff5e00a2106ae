"""Measures of an edit: background, steadiness, perceived gender, fit to a prompt; and the fairness of a set of edits.

Each measure has a module that takes tensors and returns numbers. Optional packages are imported when a function is
called. figures: all measures of one edit. run: what `fame-accel evaluate` does.
"""
