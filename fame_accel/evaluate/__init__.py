"""Judging an edit: what it left alone, how steady it is, whom a classifier sees in it, and how fair a set of edits is.

Each figure has a module: arrays in, numbers out. The packages behind them are imported when a function is called.
"""
