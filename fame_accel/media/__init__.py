"""Videos, masks and pictures: reading, writing and drawing them, and real inputs that ship in packages on PyPI.

The packages are imported when a function is called. Importing a module of this folder needs torch alone.
"""
