"""Masks as people have them: soft, colored, transparent, of another resolution, as one image or as videos."""

from __future__ import annotations

import io
import json
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fame_accel.media.mask_levels import inside
from fame_accel.media.masks import read_masks
from fame_accel.media.writing import write_video
from fame_accel.pipeline.frames import as_masks

H, W = 24, 32
LEFT = torch.zeros(H, W, dtype=torch.bool)
LEFT[:, :12] = True


def picture(values: torch.Tensor) -> Image.Image:
    return Image.fromarray(values.to(torch.uint8).numpy())


def two_levels(high: int, low: int) -> Image.Image:
    return picture(torch.where(LEFT, high, low))


def read(path: Path, frames: int = 2, **options: object) -> dict[str, torch.Tensor]:
    masks, names = read_masks(path, (H, W), frames, **options)  # type: ignore[arg-type]
    assert masks.shape[:2] == (len(names), frames)
    return dict(zip(names, masks, strict=True))


# ---- soft masks


@pytest.mark.parametrize("high, low", [(255, 0), (250, 4), (255, 127), (1, 0), (90, 40)])
def test_half_of_the_largest_value_is_inside(tmp_path, high, low):
    (tmp_path / "man").mkdir()
    two_levels(high, low).save(tmp_path / "man/0.png")
    two_levels(0, 0).save(tmp_path / "man/1.png")  # dark all over: judged by the largest value of the region
    assert torch.equal(read(tmp_path)["man"], torch.stack([LEFT, torch.zeros_like(LEFT)]))


def test_a_feathered_mask_ends_at_half(tmp_path):
    ramp = torch.linspace(0, 254, W).expand(H, W).round()
    np.savez(tmp_path / "m.npz", byte=ramp.to(torch.uint8).numpy(), real=(ramp / 254).double().numpy())
    masks = read(tmp_path / "m.npz")
    for mask in masks.values():
        assert torch.equal(mask[0], ramp >= 127) and 0.45 < mask.float().mean() < 0.55
    assert as_masks({"a": ramp.to(torch.uint8)[None]}, (1, H, W)).float().mean() == masks["byte"].float().mean()


def test_levels():
    assert inside(torch.tensor([0, 1, 2, 3, 4])).tolist() == [False, False, True, True, True]
    assert inside(torch.zeros(3)).tolist() == [False] * 3
    assert inside(torch.tensor([True, False])).tolist() == [True, False]


# ---- images


def test_transparency_is_outside(tmp_path):
    """A silhouette in one color counts by its opacity, anything else by brightness and opacity."""
    silhouette, cut_out = (np.zeros((H, W, 4), np.uint8) for _ in range(2))
    silhouette[..., 3] = LEFT.numpy() * 255
    cut_out[:, :16, :3], cut_out[..., 3] = 255, LEFT.numpy() * 255
    for name, pixels in (("black", silhouette), ("white", cut_out)):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    for mask in read(tmp_path).values():
        assert torch.equal(mask[0], LEFT) and torch.equal(mask[1], LEFT)


def test_palettes_count_by_their_colors_in_region_folders(tmp_path):
    (tmp_path / "man").mkdir()
    two_levels(255, 0).convert("RGB").quantize(3).save(tmp_path / "man/0.png")  # whichever index black has
    assert torch.equal(read(tmp_path)["man"][0], LEFT)


def test_one_image_serves_all_frames(tmp_path):
    two_levels(255, 0).save(tmp_path / "mask.png")
    masks = read(tmp_path / "mask.png", frames=3)
    assert list(masks) == ["region1"] and torch.equal(masks["region1"], LEFT.expand(3, -1, -1))
    (tmp_path / "labels.json").write_text('{"1": "man"}')
    assert list(read(tmp_path / "mask.png")) == ["man"]


def test_colors_are_labels(tmp_path):
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[:, :12], pixels[:, 20:] = (255, 0, 0), (0, 0, 255)
    for index in range(2):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    assert list(read(tmp_path)) == ["#0000ff", "#ff0000"]
    (tmp_path / "labels.json").write_text(json.dumps({"#ff0000": "man", "#0000FF": "car"}))
    masks = read(tmp_path)
    assert torch.equal(masks["man"][1], LEFT) and masks["car"].float().mean() == 12 / W
    opaque = np.dstack([pixels, np.full((H, W), 255, np.uint8)])
    opaque[:4, :, 3] = 0
    Image.fromarray(opaque).save(tmp_path / "1.png")
    assert not read(tmp_path)["man"][1, :4].any() and read(tmp_path)["man"][1, 4:, :12].all()


def test_gray_labels_may_be_saved_as_rgb_or_with_16_bits(tmp_path):
    labels = torch.where(LEFT, 1, 2)
    picture(labels).convert("RGB").save(tmp_path / "0.png")
    Image.fromarray(labels.numpy().astype(np.uint16)).save(tmp_path / "1.png")
    masks = read(tmp_path)
    assert list(masks) == ["region1", "region2"] and all(torch.equal(mask, LEFT) for mask in masks["region1"])


def test_jpegs_are_masks_of_one_region(tmp_path):
    for index in range(2):
        two_levels(255, 0).save(tmp_path / f"{index}.jpg", quality=60)
    masks = read(tmp_path)
    assert list(masks) == ["region1"] and (masks["region1"] == LEFT).float().mean() > 0.95
    picture(torch.where(LEFT, 128, 255)).save(tmp_path / "1.jpg")
    with pytest.raises(ValueError, match="is not black and white, and JPEG keeps no labels: save them as PNG"):
        read(tmp_path)


def test_soft_labels_say_where_a_soft_mask_goes(tmp_path):
    picture(torch.arange(H * W).view(H, W) % 256).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="255 different labels.*into a subfolder that is named after it"):
        read(tmp_path)


# ---- videos, sizes, names


def test_videos_are_masks(tmp_path):
    frames = LEFT.to(torch.uint8).mul(255)[None, :, :, None].repeat(4, 1, 1, 3)
    frames[2:] = 255 - frames[2:]
    write_video(tmp_path / "man.mp4", frames, 8)
    write_video(tmp_path / "car.mp4", 255 - frames, 8)
    masks = read(tmp_path, first=1, stride=2)  # frames 1 and 3
    assert list(masks) == ["car", "man"] and torch.equal(masks["man"], torch.stack([LEFT, ~LEFT]))
    assert torch.equal(read(tmp_path / "man.mp4", frames=1)["man"][0], LEFT)
    frames[..., 0] = 0
    write_video(tmp_path / "car.mp4", frames, 8)
    with pytest.raises(ValueError, match="car.mp4 is colored: masks must be black and white"):
        read(tmp_path)
    with pytest.raises(ValueError, match="has 4 frames.*: 5 were asked for"):
        read(tmp_path / "man.mp4", frames=5)


def test_masks_of_another_resolution(tmp_path):
    (tmp_path / "man").mkdir()
    two_levels(255, 0).resize((W // 4, H // 4), Image.Resampling.NEAREST).save(tmp_path / "man/0.png")
    assert torch.equal(read(tmp_path)["man"][0], LEFT)
    two_levels(255, 0).resize((W, W)).save(tmp_path / "man/0.png")
    with pytest.raises(
        ValueError, match="'man'.*are 32x32 pixels: the video has 32x24, and masks must have its aspect"
    ):
        read(tmp_path)


def test_a_region_that_the_crop_loses_says_so(tmp_path):
    narrow = torch.zeros(H, W, dtype=torch.bool)
    narrow[:, :2] = True
    np.savez(tmp_path / "m.npz", edge=narrow.numpy(), man=LEFT.numpy())
    with pytest.raises(ValueError, match=r"'edge'.*is empty after the crop and resize to 16x16 .*--fit pad"):
        read(tmp_path / "m.npz", size=(16, 16))
    assert read(tmp_path / "m.npz", size=(16, 16), fit="pad")["edge"].any()


def test_names_have_one_unicode_form(tmp_path):
    decomposed = unicodedata.normalize("NFD", "médecin")
    (tmp_path / decomposed).mkdir()
    two_levels(255, 0).save(tmp_path / decomposed / "0.png")
    assert list(read(tmp_path)) == ["médecin"]


def test_arrays_that_would_not_fit_are_refused_by_their_header(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 500, 500)})
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("man.npy", header.getvalue())
    with pytest.raises(ValueError, match="'man.npy' in .*m.npz has 250 GB: at most 9 fit"):
        read(tmp_path / "m.npz")
