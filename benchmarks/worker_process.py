"""The parent's side of worker.py: its process, which is started, asked and ended here, and the cases that it reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch

from fame_accel.bench.inputs import AttentionInputs
from fame_accel.core.layout import TokenLayout

SCRIPT = Path(__file__).with_name("worker.py")


class WorkerFailed(RuntimeError):
    """A worker reported an error, or ended."""


class Worker:
    """A process that runs worker.py on one checkout, with as many threads as this process.

    It is started anew at the next order where it ended.

    Args:
        root: the checkout.
        device: where its calls run.
        log: a file for what it prints.
    """

    def __init__(self, root: Path, device: torch.device, log: Path) -> None:
        self._root, self._device, self._log = root, device, log
        self._process: subprocess.Popen[str] | None = self._start()

    def ask(self, order: str) -> dict[str, float]:
        """Give an order and return the reply; raises WorkerFailed with the reason where there is none."""
        if self._process is None:
            self._process = self._start()
        try:
            print(order, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            raise WorkerFailed(self._end())
        reply = json.loads(line)
        if "error" in reply:
            if self._device.type == "cuda":
                self.close()  # some errors leave a context that cannot go on
            raise WorkerFailed(reply["error"])
        return reply

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what it did not read any more
                    pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(self._root), *inherited])}
        # threads that spin while they wait hold up the other process: the same code then differs by large factors
        env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        command = [sys.executable, str(SCRIPT), str(self._root), str(torch.get_num_threads())]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=env)
        with self._log.open("w") as log:  # in a session of its own, so that Ctrl-C is for this process to handle
            return subprocess.Popen(command, stderr=log, start_new_session=True, **pipes)

    def _end(self) -> str:
        """How the process ended, and the last line that it printed."""
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            status = None
        self.close()
        end = "stopped answering" if status is None else f"ended with exit status {status}"
        if status is not None and status < 0:
            end = f"was ended by signal {-status}{', most likely for its memory' if status == -signal.SIGKILL else ''}"
        printed = self._log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(printed) if line.strip()), "")
        return f"its process {end}{': ' if last else ''}{last[:200]}"


def save_case(inputs: AttentionInputs, backend: str, file: Path) -> None:
    """The case as worker.py reads it: tensors, numbers and names in a dict."""
    case = {name: getattr(inputs, name) for name in ("query", "key", "value", "row_strength", "key_weight")}
    case |= {"device": str(inputs.device), "backend": backend}
    for name in ("strength_table", "bias_table"):
        case[name] = None if inputs.modulation is None else getattr(inputs.modulation, name)
    shared = inputs.key_layout is inputs.query_layout
    for side, layout in (("query", inputs.query_layout), ("key", None if shared else inputs.key_layout)):
        region, frame, frames = (None, None, None) if layout is None else _as_given(layout)
        case |= {f"{side}_region": region, f"{side}_frame": frame, f"{side}_frames": frames}
    torch.save({name: x.cpu() if isinstance(x, torch.Tensor) else x for name, x in case.items()}, file)


def _as_given(layout: TokenLayout) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Region and frame [N] or [B, N] and the number of frames, of which a layout can be made."""
    one = 0 if layout.batch is None else slice(None)
    return layout.region[one], layout.frame[one], layout.num_frames
