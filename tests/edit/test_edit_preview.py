"""`edit --preview`: one picture of what would be edited, without networks."""

from __future__ import annotations

import numpy as np
from edit_inputs import flags
from PIL import Image

from fame_accel.cli import main
from fame_accel.edit import preview, run
from fame_accel.edit.checkpoint import find_checkpoint
from fame_accel.edit.loading import load_tokenizers
from fame_accel.edit.options import EditOptions
from fame_accel.media.drawing import region_colors


def test_a_preview_takes_no_networks(home, tmp_path, capsys, monkeypatch):
    """The regions in their colors, the rest of the frame among them, and nothing else is written."""
    masks = np.zeros((3, 128, 128), bool)
    masks[0, :, :40] = masks[1, :, 40:80] = True
    np.savez(tmp_path / "m.npz", man=masks[0], car=masks[1])
    drawn = []
    draw = preview.mask_overlay
    monkeypatch.setattr(preview, "mask_overlay", lambda *given: (drawn.append(given), draw(*given)))
    monkeypatch.setattr(run, "load_pipeline", lambda *_: 1 / 0)
    (tmp_path / "out").mkdir()
    assert (
        main(["edit", *flags(home, tmp_path / "out/a.mp4", masks=tmp_path / "m.npz", size="64x48"), "--preview"]) == 0
    )
    printed = capsys.readouterr().out
    assert "rest of the frame 38%" in printed and f"Wrote {tmp_path}/out/a_preview.png" in printed
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a_preview.png"]
    [(_, frames, regions, legend)] = drawn
    assert frames.shape == (2, 48, 64, 3) and regions.shape == (3, 2, 48, 64) and regions.sum(0).eq(1).all()
    assert legend == ['car: "car" = car', 'man: "female doctor" = female, doctor', "rest of the frame"]
    with Image.open(tmp_path / "out/a_preview.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24)}
    assert set(region_colors(3)) <= colors  # of the legend


def test_lines_of_regions(home):
    options = EditOptions(
        model="m", video="v", prompt="A Female doctor, in a car", out="a.mp4", auto_person_mask=True,
        region={"person": "female doctor,"},
    )  # fmt: skip
    [tokenizer] = load_tokenizers(find_checkpoint(home / "model"))
    assert preview.region_line("person", options, tokenizer) == 'person: "female doctor," = female, doctor, ,'
    assert preview.region_line("background", options, tokenizer) == "background: no phrase"


def test_mistakes_are_those_of_the_edit(home, tmp_path, capsys):
    assert main(["edit", *flags(home, tmp_path / "a.mp4", region="man=dog"), "--preview"]) == 2
    assert "--region man=dog: 'dog' does not occur in the prompt" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
