"""A stand-in for the pipelines that records every argument of every call, for tests that each option arrives."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class Recorder:
    """Replaces FameVideoEditPipeline, and the loading of its networks.

    seen: for each argument, as "call: parameter", the list of its values in order of the calls. Arguments are bound to
    the signatures of the real methods, so that each is recorded under its parameter's name, be it passed by position or
    by keyword, and an argument that the pipeline does not take raises TypeError.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import fame_accel.pipeline
        from fame_accel.edit import loading

        self.seen: dict[str, list[Any]] = {}
        real = fame_accel.pipeline.FameVideoEditPipeline
        recorder = self

        class Pipeline:
            unet = torch.nn.Identity()
            vae = SimpleNamespace(decoder=torch.nn.Identity())
            scheduler = SimpleNamespace(to_json_string=lambda: "{}")

            def __init__(self, controlnet: Any, **_: Any) -> None:
                recorder._note("pipeline", {"controlnet": controlnet})

            def to(self, device: torch.device) -> Pipeline:
                recorder._note("to", {"device": str(device)})
                return self

            def set_progress_bar_config(self, **_: Any) -> None:
                pass

            def invert(self, *arguments: Any, **options: Any) -> torch.Tensor:
                bound = inspect.signature(real.invert).bind(self, *arguments, **options).arguments
                recorder._note("invert", bound)
                return torch.full((len(bound["frames"]), 1, 1, 1), float(bound["num_inference_steps"]))

            def __call__(self, *arguments: Any, **options: Any) -> SimpleNamespace:
                bound = inspect.signature(real.__call__).bind(self, *arguments, **options).arguments
                recorder._note("edit", bound)
                frames = bound["frames"].permute(0, 3, 1, 2).float() / 255
                return SimpleNamespace(frames=frames, injections=())

        def load(kind: str, folder: Path, weights: Any, dtype: torch.dtype, flag: str) -> str:
            recorder._note("load", {"folder": str(folder), "dtype": dtype})
            return f"a {kind}"

        monkeypatch.setattr(fame_accel.pipeline, "FameVideoEditPipeline", Pipeline)
        monkeypatch.setattr(loading, "load_tokenizers", lambda checkpoint: ["a tokenizer"])
        for library in ("diffusers", "transformers"):
            monkeypatch.setattr(loading, f"load_{library}_model", load)

    def _note(self, call: str, arguments: Mapping[str, Any]) -> None:
        for name, value in arguments.items():
            if name != "self":
                self.seen.setdefault(f"{call}: {name}", []).append(comparable(value))


def comparable(value: Any) -> Any:
    """A value that equals another just where the two arguments do."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.flatten().tolist())
    if isinstance(value, torch.Generator):
        return value.initial_seed()
    if inspect.ismethod(value):
        return value.__name__
    if isinstance(value, Mapping):
        return {name: comparable(item) for name, item in value.items()}
    return value


def files_in(folder: Path) -> list[str]:
    """The files below a folder, by their paths relative to it."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What `after` holds otherwise than `before`; None for what it does not hold."""
    return {name: after.get(name) for name in {**before, **after} if before.get(name) != after.get(name)}


def flags_of(command: ModuleType) -> set[str]:
    """Every flag, or name of a positional argument, of a command's parser, but --help."""
    parser = argparse.ArgumentParser(add_help=False)
    command.add_arguments(parser)
    return {action.option_strings[0] if action.option_strings else action.dest for action in parser._actions}
