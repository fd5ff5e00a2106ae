"""The part of the packaging that pyproject.toml cannot say: which folders install under which names.

The top-level folders kernels/ and bindings/ install as fame_accel.kernels and fame_accel.bindings. kernels/
holds no __init__.py, which makes it a namespace portion: with one, the repository root on sys.path would
shadow the Hugging Face package `kernels`.
"""

from setuptools import find_namespace_packages, find_packages, setup


def installed_as(folder: str, subpackages: list[str]) -> list[str]:
    return [f"fame_accel.{name}" for name in [folder, *(f"{folder}.{sub}" for sub in subpackages)]]


setup(
    packages=[
        *find_packages(include=["fame_accel", "fame_accel.*"]),
        *installed_as("kernels", find_namespace_packages("kernels", exclude=["*__pycache__"])),
        *installed_as("bindings", find_packages("bindings")),
    ],
    package_dir={"fame_accel.kernels": "kernels", "fame_accel.bindings": "bindings"},
)
