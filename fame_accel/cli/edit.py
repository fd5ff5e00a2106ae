"""Edit a video with a local checkpoint of Stable Diffusion or Wan.

Writes OUT and, next to it, three files named after it: _side_by_side.mp4 (source and edited video), _sheet.png (frames
of the source, its regions and the edit) and _run.json (the options, versions, hashes of the checkpoint, times).
`fame-accel edit --config OUT_run.json` repeats the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from fame_accel.cli import flags
from fame_accel.cli.starting import starting
from fame_accel.core.limits import COUNT, Range
from fame_accel.core.presets import MODULATED_SHARE
from fame_accel.edit.options import CANNY, MEASURED, EditOptions


class StorePhrase(argparse.Action):
    """Collects the NAME=PHRASE of a repeated flag in a dictionary."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        name, equals, phrase = (part.strip() for part in str(values).partition("="))
        if not (name and equals and phrase):
            raise argparse.ArgumentError(self, f"must be two words or phrases with = between them, got {values!r}")
        phrases = getattr(namespace, self.dest, {})
        if name in phrases:
            raise argparse.ArgumentError(self, f"must be given once per name, got {name!r} twice")
        setattr(namespace, self.dest, {**phrases, name: phrase})


_USAGE = """%(prog)s [-h] --model FOLDER --video PATH (--masks PATH | --auto-person-mask)
                       --prompt PROMPT --region NAME=PHRASE --out FILE [further options]
       %(prog)s --config FILE [further options]"""
_EXAMPLE = """example:
  fame-accel edit --model sd15 --video clip.mp4 --auto-person-mask --prompt "a doctor talking in a car" \\
      --source-prompt "a man talking in a car" --region person=doctor --region background=car \\
      --debias doctor=auto --out edited.mp4"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage, parser.epilog = _USAGE, _EXAMPLE
    defaults = {option.name: option.default for option in fields(EditOptions)}

    def add(name: str, help: str | None = None, **options: Any) -> None:
        """Add a flag that is absent from the arguments unless given, so that the value from --config stands."""
        help = help or flags.shared_help(name)
        default = defaults.get(name.lstrip("-").replace("-", "_"))
        if isinstance(default, (int, float, str)) and default is not False and default != "":
            help = f"{help} (default: {default})"
        flags.add(group, name, help, default=argparse.SUPPRESS, **options)

    group = parser.add_argument_group("input")
    add("--config", "run.json of an earlier edit, to repeat; other flags override what it says", metavar="FILE")
    model = (
        "checkpoint folder in diffusers' layout, weights in safetensors; or its name in Hugging Face's cache; or one "
        "file, .safetensors, of a Stable Diffusion 1 or XL"
    )
    add("--model", model, metavar="FOLDER")
    add("--video", "video file, or folder of images", metavar="PATH")
    add("--frames", "number of frames to edit")
    add("--start")
    add("--stride")
    size = f"WIDTHxHEIGHT in pixels, or a square; multiples of 8 (default: {flags.OWN_ASPECT})"
    add("--size", size)
    add("--width", "in place of --size; alone it keeps the video's aspect ratio")
    add("--height", "in place of --size; alone it keeps the video's aspect ratio")
    add("--fit")
    add("--fps")
    network = "ControlNet folder in diffusers' layout; needs --control; repeatable"
    add("--controlnet", network, metavar="FOLDER", action="append")
    control = f"conditioning of the ControlNet: {CANNY} edges of the video, or a video or folder of images; repeatable"
    add("--control", control, metavar=f"{CANNY}|PATH", action="append")
    group = parser.add_argument_group("regions")
    masks = "folder with a subfolder of images per region, folder of label images, one image, video, or .npz file"
    add("--masks", masks, metavar="PATH")
    add("--auto-person-mask", "segment the video into the regions person and background", action="store_true")
    rest = "leave pixels outside of all masks in no region, as VideoGrain does; by default they are one more region"
    add("--no-rest", rest, action="store_true")
    region = "phrase of the prompt that describes a region; repeatable; replaces all the regions of --config"
    add("--region", region, metavar="NAME=PHRASE", action=StorePhrase)
    group = parser.add_argument_group("text")
    add("--prompt", "describes the edited video")
    add("--source-prompt", "describes the video as it is (default: none)", metavar="PROMPT")
    add("--negative-prompt", "describes what the edit should avoid (default: none)", metavar="PROMPT")
    debias = f"move a subject of the prompt toward a phrase; {MEASURED}: toward the text encoder's minority; repeatable"
    add("--debias", debias, metavar="SUBJECT=PHRASE", action=StorePhrase)
    add("--eta", "strength of --debias, 0 to 1; not the eta of DDIM, which is --ddim-eta")
    group = parser.add_argument_group("sampling")
    add("--steps", "number of steps, of inversion and of editing")
    add("--modulation", f"of self-attention: {', '.join(flags.MODULATIONS)}")
    add("--decay", "rate of the time decay exp(-RATE * frames apart) (default: the modulation's)")
    modulated = f"number of steps that are modulated, the first ones (default: {MODULATED_SHARE:.0%} of them)"
    add("--modulated-steps", modulated.replace("%", "%%"), type=flags.number(Range(int, 0)), metavar="N")
    add("--guidance", "scale of classifier-free guidance; up to 1 it is off")
    add("--ddim-eta", "share of fresh noise in each step, 0 to 1")
    add("--seed", "seed of the fresh noise")
    add("--strength", "share of the steps that an edit with Wan takes, from 0 to 1 (default: 0.66)")
    add("--source-guidance", "guidance under the source prompt in an edit with Wan (default: 3.5)")
    group = parser.add_argument_group("output")
    add("--out", "video to write, .mp4, in an existing folder; existing files are replaced", metavar="FILE")
    preview = "draw frames, regions, phrases and their tokens as one picture, OUT_preview.png, and stop there"
    add("--preview", preview, action="store_true")
    add("--resume", "go on with an edit to --out that was interrupted", action="store_true")
    latents = "file of the inverted clip: made by the first edit, taken by later ones of the same clip, steps and model"
    add("--latents", latents, metavar="FILE")
    add("--sign-cert", "PEM file of a certificate chain: sign the outputs (C2PA); needs --sign-key", metavar="FILE")
    add("--sign-key", "PEM file of the certificate's private key", metavar="FILE")
    group = parser.add_argument_group("machine")
    add("--backend", f"of attention: {', '.join(flags.BACKENDS)}")
    add("--dtype", f"{', '.join(flags.DTYPES)} (default: on cuda float16, bfloat16 for Wan; otherwise float32)")
    add("--device", "torch device (default: cuda where torch finds a GPU, otherwise cpu)")
    add("--split-guidance", "run the halves of guidance one after the other, for less memory", action="store_true")
    chunk = "images that pass through the VAE and the ControlNet at once; fewer take less memory"
    add("--chunk-size", chunk, type=flags.number(COUNT), metavar="N")
    add("--offload", "keep a network on the GPU only while it runs; needs a cuda device", action="store_true")


def command(**arguments: Any) -> int:
    if "eta" in arguments and not ("debias" in arguments or "config" in arguments):
        raise ValueError("--eta is the strength of --debias, which is not given")
    from fame_accel.edit.record import merge_options, read_record

    resume, preview = arguments.pop("resume", False), arguments.pop("preview", False)
    record = read_record(arguments.pop("config")) if "config" in arguments else {"options": {}}
    try:
        options = EditOptions.from_mapping(merge_options(record["options"], arguments))
    except TypeError as error:  # flags have the right types, so it is a value of the file
        raise ValueError(f"--config: {error}") from error
    starting("torch", "diffusers", "transformers")
    if preview:
        from fame_accel.edit.preview import preview_edit

        print(f"Wrote {preview_edit(options)}")
        return 0
    from fame_accel.edit.run import run_edit
    from fame_accel.edit.target import Outputs

    result = run_edit(options, record, resume=resume)
    for injection in result["injections"]:
        print(_describe(injection))
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["seconds"].items())
    folder = Outputs.next_to(options.out).video.resolve().parent
    print(f"{times}\nWrote {', '.join(result['outputs'])} to {folder}")
    return 0


def _describe(injection: Mapping[str, Any]) -> str:
    """What one debiasing did, in a line."""
    before, after = (
        ", ".join(f"{group} {value:.4f}" for group, value in injection[when].items()) for when in ("before", "after")
    )
    return (
        f"{injection['subject']!r} moved toward {injection['toward']!r} by {injection['share']:.3f} of the difference "
        f"between the groups; its association with {before} became {after}"
    )
