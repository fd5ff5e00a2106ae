"""Edit a video with a local Stable Diffusion checkpoint.

Writes OUT and, beside it, OUT's stem + _side_by_side.mp4 (source and edited), _sheet.png (source, regions and edited
frames) and _run.json: the options resolved, versions, the checkpoint's sha256, times. `fame-accel edit --config
OUT_run.json` repeats the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from fame_accel.edit.options import CANNY, DTYPES, MEASURED, MODULATIONS, EditOptions
from fame_accel.edit.record import merged, read_record
from fame_accel.edit.target import Outputs
from fame_accel.media.arguments import parse_size

HELP = "edit a video with a local Stable Diffusion checkpoint"
_DEFAULTS = {option.name: option.default for option in fields(EditOptions)}
_PAIRS = ("region", "debias")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def add(flag: str, help: str, **given: Any) -> None:
        # left out unless given, so that what --config says stands; the defaults are those of EditOptions
        parser.add_argument(flag, help=help, default=argparse.SUPPRESS, **given)

    def default(name: str) -> str:
        return f"(default: {_DEFAULTS[name]})"

    add("--config", "run.json of an earlier edit, to repeat; flags given as well override it", metavar="FILE")
    add("--model", "checkpoint folder in diffusers' layout, safetensors only", metavar="FOLDER")
    add("--video", "video file, or folder of images", metavar="PATH")
    add("--masks", "a folder with a sub-folder of PNGs per region, a folder of label PNGs, or .npz", metavar="PATH")
    add("--auto-person-mask", "find the regions person and background with the packaged network", action="store_true")
    add("--prompt", "of the edited video")
    add("--source-prompt", "of the video as it is (default: none)", metavar="PROMPT")
    add("--negative-prompt", "what to stay away from (default: none)", metavar="PROMPT")
    region = (
        "the phrase of the prompt that belongs to a region; repeat (a region may have none; --config's are dropped)"
    )
    add("--region", region, metavar="NAME=PHRASE", type=_pair, action="append")
    debias = f"move a subject of the prompt toward a phrase, or {MEASURED}: the measured minority; repeat"
    add("--debias", debias, metavar="SUBJECT=PHRASE", type=_pair, action="append")
    add("--eta", f"strength of --debias, 0 to 1 {default('eta')}; not DDIM's, --ddim-eta", type=float)
    add("--controlnet", "ControlNet folder in diffusers' layout, with --control", metavar="FOLDER")
    add("--control", f"what to condition it on: {CANNY}, or a video or folder like --video", metavar=f"{CANNY}|PATH")
    add("--frames", f"how many to take from the beginning {default('frames')}", type=int, metavar="N")
    add("--stride", f"take every Nth frame {default('stride')}", type=int, metavar="N")
    size = "pixels, multiples of 8, the centre cropped to fit: height x width, or one number for both (default: 512)"
    add("--size", size, type=parse_size, metavar="HxW")
    add("--fps", "frames a second of --video (default: its own; 8 for a folder)", type=float)
    add("--steps", f"of inversion and of editing {default('steps')}", type=int, metavar="N")
    add("--modulation", f"of self-attention: {', '.join(MODULATIONS)} {default('modulation')}")
    add("--decay", "rate of the time decay exp(-decay * frames apart) (default: the modulation's)", type=float)
    add("--modulated-steps", "how many steps are modulated, the first (default: 30%% of them)", type=int, metavar="N")
    add("--guidance", f"classifier-free guidance scale, off up to 1 {default('guidance')}", type=float, metavar="SCALE")
    add("--ddim-eta", f"share of fresh noise in each step, 0 to 1 {default('ddim_eta')}", type=float, metavar="SHARE")
    add("--seed", f"of the fresh noise {default('seed')}", type=int)
    add("--backend", f"of attention: auto, triton, sdpa or reference {default('backend')}")
    add("--dtype", f"{', '.join(DTYPES)} (default: float16 on cuda, otherwise float32)")
    add("--device", "torch device (default: cuda where there is one, otherwise cpu)")
    add("--out", "video to write, .mp4, in a folder that exists; files of these names are replaced", metavar="FILE")


def command(**flags: Any) -> int:
    if "eta" in flags and not ("debias" in flags or "config" in flags):
        raise ValueError("--eta is the strength of --debias, which is not given")
    record = read_record(flags.pop("config")) if "config" in flags else {"options": {}}
    flags |= {name: _mapping(name, flags[name]) for name in _PAIRS if name in flags}
    try:
        options = EditOptions.of(merged(record["options"], flags))
    except TypeError as error:  # flags have the right types: it comes from the file
        raise ValueError(f"--config: {error}") from error
    from fame_accel.edit.run import run_edit

    done = run_edit(options, record.get("checkpoint"))
    for found in done["injections"]:
        print(_told(found))
    times = ", ".join(f"{name} {value:.1f} s" for name, value in done["seconds"].items())
    print(f"{times}\nWrote {', '.join(done['outputs'])} to {Outputs.beside(options.out).video.resolve().parent}")
    return 0


def _told(injection: Mapping[str, Any]) -> str:
    """What a debiasing came to, in a line."""
    toward = injection["toward"]

    def association(when: str) -> str:
        return ", ".join(f"{group} {value:.4f}" for group, value in injection[when].items())

    return (
        f"{injection['subject']!r} moved toward {toward!r} by {injection['share']:.3f} of the difference between the "
        f"groups; its association with {association('before')} became {association('after')}"
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, phrase = text.partition("=")
    if not (equals and name.strip() and phrase.strip()):
        raise argparse.ArgumentTypeError(f"must be two words or phrases with = between, got {text!r}")
    return name.strip(), phrase.strip()


def _mapping(name: str, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"--{name} gives a name twice: {', '.join(given for given, _ in pairs)}")
    return found
