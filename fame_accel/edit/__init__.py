"""What `fame-accel edit` does: a video in, the edited video out.

options: the options and their checks. checkpoint, inputs, target: what is read, where the edit runs and what it writes,
checked before any long work. progress: the progress bar. run: the edit. record: run.json, which repeats it.
"""
