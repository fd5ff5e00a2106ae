"""Runs cases on whichever fame_accel PYTHONPATH gives: one of the two processes of a comparison of revisions.

    python worker.py ROOT THREADS

ROOT is the folder that fame_accel must come from. Each line on stdin gets a line of JSON on stdout:

    load FILE   {}                 loads the case for the next lines, as worker_process.save_case writes it
    out FILE    {}                 saves its result [B, H, Nq, D]
    time        {"ms": 1.25}       times one call

An order that raises gets {"error": "Type: message"}. The script is run by its path, so that revisions without it can be
measured, and it uses only the oldest public names of fame_accel.
"""

from __future__ import annotations

import os
import sys

# the script's folder, which Python puts first, holds modules of general names
sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != os.path.dirname(os.path.realpath(__file__))]

import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

_L2_BYTES = 256 << 20  # more than any GPU's L2 cache holds


class Session:
    """Runs the case that was loaded last."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self._call: Callable[[], Tensor] | None = None
        self._flush: Tensor | None = None

    def load(self, file: str) -> dict[str, object]:
        self._call = None  # its memory is free for the next case
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        import fame_accel

        if not os.path.realpath(fame_accel.__file__).startswith(os.path.join(self._root, "")):
            raise ImportError(f"fame_accel is imported from {fame_accel.__file__}, not from {self._root}")
        case = torch.load(file, map_location="cpu", weights_only=True)
        device = torch.device(case["device"])
        if device.type == "cuda" and self._flush is None:
            torch.cuda.set_device(device)  # whose stream the events are of
            self._flush = torch.empty(_L2_BYTES, dtype=torch.int8, device=device)
        x = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in case.items()}
        layouts = [fame_accel.TokenLayout(x["query_region"], x["query_frame"], x["query_frames"])]
        if x["key_region"] is not None:
            layouts.append(fame_accel.TokenLayout(x["key_region"], x["key_frame"], x["key_frames"]))
        tables = (case["strength_table"], case["bias_table"])
        modulation = None if tables == (None, None) else fame_accel.Modulation(*tables)

        def call() -> Tensor:
            return fame_accel.layout_attention(
                x["query"], x["key"], x["value"], layouts[0], layouts[-1], modulation,
                row_strength=x["row_strength"], key_weight=x["key_weight"], backend=x["backend"],
            )  # fmt: skip

        self._call = call
        return {}

    def out(self, file: str) -> dict[str, object]:
        torch.save(self._loaded()().cpu(), file)
        return {}

    def time(self, _: str) -> dict[str, object]:
        call = self._loaded()
        if self._flush is None:
            start = time.perf_counter()
            call()
            return {"ms": 1e3 * (time.perf_counter() - start)}
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()  # the calls below are enqueued while it runs
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return {"ms": begin.elapsed_time(end)}

    def _loaded(self) -> Callable[[], Tensor]:
        if self._call is None:
            raise RuntimeError("no case is loaded")
        return self._call


@torch.no_grad()
def main(root: str, threads: str) -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the library prints goes to stderr
    torch.set_num_threads(int(threads))
    session = Session(root)
    orders = {"load": session.load, "out": session.out, "time": session.time}
    for line in sys.stdin:  # which ends with the process that asks
        order, _, argument = line.rstrip("\n").partition(" ")
        try:
            reply = orders[order](argument)
        except Exception as error:  # whatever a revision cannot do is a result
            reply = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
