"""`fame-accel edit`: a video in, the edited video out.

options: what is asked for; checkpoint, inputs: what is read, and checked before any long work; progress: the bar;
run: the edit itself; record: run.json, which repeats it; command: the flags.
"""
