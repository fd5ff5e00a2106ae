"""Work in which each thread runs its torch operators alone.

An operator that is split over threads waits for all of them at its end, so a thread that the system holds back holds up
the others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Task = TypeVar("Task")
_starting = threading.Lock()


def run_in_threads(work: Callable[[Task], None], tasks: Sequence[Task], threads: int) -> None:
    """Call `work(task)` for every task, without gradients, in `threads` threads."""
    inference = torch.is_inference_mode_enabled()

    def run(task: Task) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(task)

    with _starting:
        pool = _pool(threads)
    for done in [pool.submit(run, task) for task in tasks]:
        done.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """A pool that stays, as oneDNN makes its kernels anew in each thread.

    A thread takes its number of threads for operators from torch's global one when it first asks for it.
    """
    pool = ThreadPoolExecutor(threads, "fame_accel")
    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()
        started.wait()

    torch.set_num_threads(1)
    try:
        for _ in range(threads):
            pool.submit(start)
        started.wait()
    except BaseException:
        started.abort()  # those that did start go on
        raise
    finally:
        torch.set_num_threads(threads)
    return pool


def _forget_threads() -> None:
    """A forked process has none of its parent's threads."""
    global _starting
    _starting = threading.Lock()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
