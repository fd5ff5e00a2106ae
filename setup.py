"""The packages, kernels/ and bindings/ among them: they install as fame_accel.kernels and fame_accel.bindings, through
the links of these names in fame_accel/.

kernels/ holds no __init__.py: with one, the repository root on sys.path would shadow Hugging Face's package `kernels`.
"""

from setuptools import find_namespace_packages, setup

setup(packages=find_namespace_packages(include=["fame_accel", "fame_accel.*"], exclude=["*.__pycache__"]))
