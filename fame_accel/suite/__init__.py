"""What `fame-accel suite` does: edit clips into 40 professions and measure how fair the edits are.

edits: what is edited. clips: what is read. run: the edits themselves. results: the resumable table of them. summary:
its figures and chart.
"""
