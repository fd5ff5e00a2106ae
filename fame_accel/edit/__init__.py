"""What `fame-accel edit` does: a video in, the edited video out.

options: the options and their checks. checkpoint, inputs, target: what is read, where the edit runs and what it writes,
checked by prepare before any long work. preview: what would be edited, as a picture. run: the edit. steps, latents: its
progress on disk. record: run.json, which repeats it. loading, memory, progress, rescue: parts of run.
"""
