"""Launch table: tile sizes, warps and pipeline stages per kernel, architecture family, head_dim and element size.

The 16-bit entries of sm90 over a plan were timed on an H100, in float16 at head_dim 40, 64, 80, 128 and 160: each the
best of those tried, or within 8% of it (benchmarks/results/launches.csv). The others come from ahead-of-time
compilation (see benchmarks/static.py): shared memory within the chip's limit, float16 without spills where
registers allow. `load` puts measured entries in their place; the file named by FAME_ACCEL_LAUNCHES is loaded at the
first launch.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .launch import Launch

log = logging.getLogger("fame_accel")

FEW_KEYS = 96  # that the few-keys kernel holds; from 97 on it would spill, and they are streamed
VARIABLE = "FAME_ACCEL_LAUNCHES"
KERNELS = ("tiled", "one_pass", "two_pass", "few_keys", "streamed_keys")  # that have entries
HEAD_DIMS = (40, 64, 80, 128, 160)  # of Stable Diffusion and video transformers: what is tuned and counted

# Families: sm75 (Turing), sm80 (A100), sm86 (100 KiB of shared memory: sm_86, 89, 120), sm90, sm100, cdna (gfx9), rdna
# (gfx11, gfx12). kernel -> family -> (largest head_dim, element size) -> Launch. "tiled" are the kernels over a plan;
# "one_pass" and "two_pass", those among them that need row extremes, have entries of their own where they differ.
_TABLE: dict[str, dict[str, dict[tuple[int, int], Launch]]] = {
    "tiled": {
        "sm75": {(64, 2): Launch(64, 32, 4, 1), (256, 2): Launch(32, 32, 4, 1), (256, 4): Launch(16, 16, 4, 1)},
        "sm80": {
            (64, 2): Launch(128, 64, 4, 3),
            (128, 2): Launch(128, 32, 8, 3),
            (256, 2): Launch(64, 32, 4, 2),
            (48, 4): Launch(64, 32, 4, 2),
            (256, 4): Launch(32, 32, 4, 2),
        },
        "sm86": {
            (64, 2): Launch(128, 64, 4, 2),
            (128, 2): Launch(128, 32, 8, 3),
            (256, 2): Launch(64, 32, 4, 2),
            (48, 4): Launch(64, 32, 4, 2),
            (256, 4): Launch(32, 16, 4, 2),
        },
        "sm90": {
            (48, 2): Launch(64, 64, 4, 3),
            (64, 2): Launch(128, 64, 4, 3),
            (96, 2): Launch(128, 64, 8, 3, registers=128),
            (128, 2): Launch(128, 64, 8, 2, registers=128),
            (256, 2): Launch(64, 32, 4, 3),
            (48, 4): Launch(64, 32, 4, 2),
            (256, 4): Launch(32, 32, 4, 2),
        },
        "sm100": {  # whose threads hold whole rows
            (48, 2): Launch(128, 64, 4, 3),
            (128, 2): Launch(128, 64, 8, 3, 1),
            (256, 2): Launch(128, 32, 8, 2, 1),
            (48, 4): Launch(64, 32, 4, 2),
            (256, 4): Launch(32, 32, 4, 2),
        },
        "cdna": {  # whose threads hold columns
            (64, 2): Launch(128, 64, 4, 1, 1),
            (128, 2): Launch(128, 32, 4, 1, 1),
            (256, 2): Launch(64, 32, 4, 1, 1),
            (64, 4): Launch(64, 32, 4, 1, 1),
            (256, 4): Launch(32, 16, 4, 1, 1),
        },
        "rdna": {
            (64, 2): Launch(64, 32, 4, 1, 1),
            (256, 2): Launch(32, 32, 4, 1, 1),
            (64, 4): Launch(32, 32, 4, 1, 1),
            (256, 4): Launch(32, 16, 4, 1, 1),
        },
        "interpreter": {(256, 4): Launch(32, 32, 1, 1)},
    },
    "one_pass": {
        "sm90": {
            (48, 2): Launch(128, 64, 4, 3),
            (64, 2): Launch(128, 64, 8, 3, registers=128),
            (96, 2): Launch(64, 64, 4, 3, registers=168),
            (128, 2): Launch(64, 64, 4, 3),
        },
    },
    "two_pass": {"sm90": dict.fromkeys(((48, 2), (64, 2), (96, 2)), Launch(128, 64, 4, 3))},
    # A head_dim or element size without an entry goes to streamed_keys.
    "few_keys": {
        "sm80": {(80, 2): Launch(64, 0, 4, 2), (128, 2): Launch(128, 0, 8, 2), (160, 2): Launch(64, 0, 4, 2)},
        "sm86": {(80, 2): Launch(64, 0, 4, 2), (160, 2): Launch(32, 0, 4, 2)},
        "sm90": {(80, 2): Launch(64, 0, 4, 2), (160, 2): Launch(64, 0, 4, 1)},
        "sm100": {(160, 2): Launch(64, 0, 8, 2)},
        "cdna": {(160, 2): Launch(64, 0, 4, 1)},
        "interpreter": {(160, 4): Launch(32, 0, 1, 1)},
    },
    "streamed_keys": {
        "sm75": {(64, 2): Launch(64, 32, 4, 1), (256, 2): Launch(32, 32, 4, 1), (256, 4): Launch(16, 16, 4, 1)},
        "sm80": {
            (48, 2): Launch(128, 64, 4, 2),
            (128, 2): Launch(128, 64, 8, 2),
            (256, 2): Launch(128, 32, 8, 2),
            (64, 4): Launch(64, 32, 8, 1),
            (256, 4): Launch(32, 16, 4, 1),
        },
        "sm86": {
            (48, 2): Launch(128, 64, 4, 2),
            (64, 2): Launch(128, 64, 8, 2),
            (128, 2): Launch(128, 32, 8, 2),
            (256, 2): Launch(64, 32, 8, 2),
            (64, 4): Launch(64, 32, 8, 1),
            (256, 4): Launch(32, 16, 4, 1),
        },
        "cdna": {
            (64, 2): Launch(128, 64, 4, 1),
            (256, 2): Launch(64, 32, 4, 1),
            (64, 4): Launch(64, 32, 4, 1),
            (256, 4): Launch(32, 16, 4, 1),
        },
        "rdna": {(256, 2): Launch(32, 32, 4, 1), (64, 4): Launch(32, 32, 4, 1), (256, 4): Launch(32, 16, 4, 1)},
        "interpreter": {(256, 4): Launch(32, 32, 1, 1)},
    },
}
for _family in ("sm90", "sm100"):
    _TABLE["streamed_keys"][_family] = dict(_TABLE["streamed_keys"]["sm80"])
_SAFE, _SAFE_WIDE = Launch(32, 32, 4, 1), Launch(16, 16, 4, 1)  # wide: rows of more than 512 bytes
_unknown_logged: set[str] = set()
_from_variable: list[str] = []
_FIELDS = {"kernel": str, "family": str} | dict.fromkeys(("head_dim", "element_size", *Launch._fields), int)
_FAMILY = re.compile(r"sm\d+|gfx\w+|cdna|rdna|interpreter")


class ShortLaunch(NamedTuple):
    """Batch items a program of the short-sequences kernel holds, num_warps, num_stages of its loop over heads."""

    items: int
    num_warps: int
    num_stages: int


def choose_launch(kernel: str, family: str, head_dim: int, element_size: int) -> Launch | None:
    """The entry for a kernel, chip and rows.

    Kernels are "tiled"; "one_pass" and "two_pass", which take an entry of "tiled" that fits closer than their own;
    "streamed_keys"; and "few_keys", for which None means that it has no entry here. A family that is not in the table
    gets a small safe entry, with one line of log.
    """
    _load_variable()
    # of the entry that fits closest; of equals, the kernel's own
    names = (kernel, "tiled") if kernel in ("one_pass", "two_pass") else (kernel,)
    entries = [(key, launch) for name in names for key, launch in _TABLE[name].get(family, {}).items()]
    fits = [(key, launch) for key, launch in entries if head_dim <= key[0] and element_size <= key[1]]
    if fits:
        return min(fits, key=lambda entry: (entry[0][1], entry[0][0]))[1]
    if kernel == "few_keys":
        return None
    safe = _SAFE_WIDE if head_dim * element_size > 512 else _SAFE
    if family not in _unknown_logged:
        _unknown_logged.add(family)
        log.warning("no launch for %s in the table: using tiles of %d x %d", family, safe.block_q, safe.block_k)
    return safe


def planned_kernel(modulated: bool, one_pass: bool) -> str:
    """The kernel over a plan, by the name that `choose_launch` takes."""
    return ("one_pass" if one_pass else "two_pass") if modulated else "tiled"


def is_known(family: str) -> bool:
    """Whether the table has entries for a family; others get the safe one."""
    _load_variable()
    return any(family in families for families in _TABLE.values())


@contextmanager
def override(kernel: str, family: str, head_dim: int, element_size: int, launch: Launch) -> Iterator[None]:
    """Within the block, the table has this entry in place of its own."""
    _load_variable()
    families = _TABLE[kernel]
    before = families.get(family)
    families[family] = {**(before or {}), (head_dim, element_size): launch}
    try:
        yield
    finally:
        if before is None:
            del families[family]
        else:
            families[family] = before


def short_sequences_launch(
    family: str, num_queries: int, num_keys: int, head_dim: int, element_size: int
) -> ShortLaunch:
    """Launch of the short-sequences kernel: a warp for 16 rows of an item, and up to four items where they have no
    more. More warps for an item of wide rows, and in float32, which has no matrix units in full precision.

    A batched product of one item a warp takes half the instructions of one product over a block diagonal of items.
    """
    long = max(num_queries, num_keys) > 16
    if family == "interpreter":
        return ShortLaunch(1 if long else 4, 1, 1)
    stages = 2 if family in ("sm80", "sm86", "sm90", "sm100") else 1
    if element_size > 2:
        return ShortLaunch(1, 8 if long or head_dim > 128 else 4, 1)
    if long or head_dim > 160:
        return ShortLaunch(1, 4 if head_dim > 128 else 2, stages)
    items = 4 if head_dim <= 80 else 2
    return ShortLaunch(items, items, stages)


def load(path: str | Path) -> int:
    """Put the entries of a JSON file in the table.

    The file holds a list of objects with kernel, family, head_dim (the largest that the entry serves), element_size
    (bytes), block_q, block_k, num_warps, num_stages, parts where it is not 8, and registers where they are limited.
    Other keys are ignored.

    Returns:
        The number of entries.

    Raises:
        ValueError: names the file and what is wrong with it; no entry is taken then.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not JSON, or not text
        raise ValueError(f"{path} cannot be read as a list of launches: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of launches, got {type(rows).__name__}")
    for number, row in enumerate(rows):
        rows[number] = Launch._field_defaults | row if isinstance(row, dict) else row
        if (problem := _problem(rows[number])) is not None:
            raise ValueError(f"{path}: {problem}, got {row!r}")
    for row in rows:
        entries = _TABLE[row["kernel"]].setdefault(row["family"], {})
        entries[row["head_dim"], row["element_size"]] = Launch(*(row[name] for name in Launch._fields))
    return len(rows)


def _problem(row: Any) -> str | None:
    """What a row of a file must be and is not; None where it is right."""
    mistyped = [name for name, kind in _FIELDS.items() if not isinstance(row, dict) or type(row.get(name)) is not kind]
    if mistyped:
        return f"a launch must have {', '.join(f'{name} ({_FIELDS[name].__name__})' for name in mistyped)}"
    if row["kernel"] not in _TABLE:
        return f"kernel must be one of {', '.join(_TABLE)}"
    if not _FAMILY.fullmatch(row["family"]):
        return "family must be a name such as sm90, cdna or rdna"
    if not 1 <= row["head_dim"] <= 256:
        return "head_dim must lie in [1, 256]"
    if row["element_size"] not in (2, 4):
        return "element_size must be 2 or 4"
    few = row["kernel"] == "few_keys"
    if few and row["block_k"] != 0:
        return "block_k must be 0 for few_keys, which holds all keys"
    for name in ("block_q",) if few else ("block_q", "block_k"):
        if not 16 <= row[name] <= 256 or row[name] & (row[name] - 1):
            return f"{name} must be a power of two, from 16 to 256"
    if row["num_warps"] not in (1, 2, 4, 8, 16, 32):
        return "num_warps must be a power of two, at most 32"
    if row["parts"] not in (1, 2, 4, 8, 16):
        return "parts must be a power of two, at most 16"
    if row["registers"] and not row["family"].startswith(("sm", "interpreter")):
        return "registers are limited on NVIDIA chips alone"
    if row["registers"] and not 24 <= row["registers"] <= 255:
        return "registers must lie in [24, 255], or be 0 for no limit"
    return None if row["num_stages"] >= 1 else "num_stages must be at least 1"


def _load_variable() -> None:
    path = os.environ.get(VARIABLE)
    if path and path not in _from_variable:
        log.info("%d launches from %s", load(path), path)
        _from_variable.append(path)
