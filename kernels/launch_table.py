"""Launch table: tile sizes, warps and pipeline stages per kernel, architecture family, head_dim and element size.

The entries come from ahead-of-time compilation (see benchmarks/static.py), not from measurement: shared memory within
the chip's limit, float16 without spills where registers allow. `load` puts measured entries in their place; the file
named by FAME_ACCEL_LAUNCHES is loaded at the first launch.
"""

import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

from .launch import Launch

log = logging.getLogger("fame_accel")

FEW_KEYS = 128  # that the few-keys kernel holds
VARIABLE = "FAME_ACCEL_LAUNCHES"

# Families: sm75 (Turing), sm80 (A100), sm86 (100 KiB of shared memory: sm_86, 89, 120), sm90, sm100, cdna (gfx9), rdna
# (gfx11, gfx12). kernel -> family -> (largest head_dim, element size) -> Launch. "tiled" are the kernels over a plan.
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
            (64, 2): Launch(128, 64, 4, 3),
            (128, 2): Launch(128, 64, 8, 3),
            (256, 2): Launch(128, 32, 8, 2),
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
_SAFE = Launch(32, 32, 4, 1)
_unknown_said: set[str] = set()
_from_variable: list[str] = []
_FIELDS = {"kernel": str, "family": str, "head_dim": int, "element_size": int} | dict.fromkeys(Launch._fields, int)


class ShortLaunch(NamedTuple):
    """Batch items a program of the short-sequences kernel holds, num_warps, num_stages of its loop over heads."""

    items: int
    num_warps: int
    num_stages: int


def choose_launch(kernel: str, family: str, head_dim: int, element_size: int) -> Launch | None:
    """The entry for a kernel: "tiled", "streamed_keys", or "few_keys", whose None means that it has none here.

    A small safe entry, with one log line, for a family that is not in the table.
    """
    _load_variable()
    if family not in _TABLE["tiled"]:
        if family not in _unknown_said:
            _unknown_said.add(family)
            log.warning("no launch table for %s: using tiles of %d x %d", family, _SAFE.block_q, _SAFE.block_k)
        return None if kernel == "few_keys" else _SAFE
    entries = _TABLE[kernel].get(family, {})
    fits = [key for key in entries if head_dim <= key[0] and element_size <= key[1]]
    return entries[min(fits, key=lambda key: (key[1], key[0]))] if fits else None


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
    stages = 2 if family in _TABLE["tiled"] and family not in ("sm75", "cdna", "rdna") else 1
    if element_size > 2:
        return ShortLaunch(1, 8 if long or head_dim > 128 else 4, 1)
    if long or head_dim > 160:
        return ShortLaunch(1, 4 if head_dim > 128 else 2, stages)
    items = 4 if head_dim <= 80 else 2
    return ShortLaunch(items, items, stages)


def load(path: str | Path) -> int:
    """Put the entries of a JSON file in the table, and say how many: a list of objects with kernel, family, head_dim
    (the largest it serves), element_size (bytes), block_q, block_k, num_warps, num_stages. ValueError names what is
    wrong with one."""
    rows = json.loads(Path(path).read_text())
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of launches, got {type(rows).__name__}")
    for row in rows:
        wrong = [name for name, kind in _FIELDS.items() if not isinstance(row, dict) or type(row.get(name)) is not kind]
        if wrong:
            raise ValueError(f"{path}: a launch must have {', '.join(_FIELDS)}; {', '.join(wrong)} wrong in {row}")
        if row["kernel"] not in _TABLE:
            raise ValueError(f"{path}: kernel must be one of {', '.join(_TABLE)}, got {row['kernel']!r}")
        powers = [row[name] for name in ("block_q", "num_warps")] + ([row["block_k"]] if row["block_k"] else [])
        if row["kernel"] != "few_keys" and not row["block_k"] or any(n < 1 or n & (n - 1) for n in powers):
            raise ValueError(f"{path}: block_q, block_k and num_warps must be powers of two, got {row}")
    for row in rows:
        entries = _TABLE[row["kernel"]].setdefault(row["family"], {})
        entries[row["head_dim"], row["element_size"]] = Launch(*(row[name] for name in Launch._fields))
    return len(rows)


def _load_variable() -> None:
    path = os.environ.get(VARIABLE)
    if path and path not in _from_variable:
        _from_variable.append(path)
        log.info("%d launches from %s", load(path), path)
