"""The page of a run: nothing from a file is markup, nothing is loaded from elsewhere, and what is missing is named."""

import base64
import io
import itertools
import json
import math
import os
import re
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from avmae_jax.config import DataConfig, ModelConfig
from avmae_jax.inference.griffin_lim import save_wav
from avmae_jax.plots.canvas import Box, blank, save
from avmae_jax.plots.clips import show_image
from avmae_jax.plots.palette import DARK, LIGHT
from avmae_jax.report.build import report
from avmae_jax.report.html import image_file
from tests.report.pages import HOSTILE, Page, start


def row(step: int, split: str = "train", **values: Any) -> str:
    return json.dumps({"step": step, "split": split, **values}) + "\n"


def draw(path: Path) -> None:
    save(Figure(figsize=(1, 1)), path)


def classifier(folder: Path, name: str = HOSTILE, view: str = "multimodal_middle") -> Path:
    """A run of fine-tuning with an evaluation of two classes."""
    run = start(folder, row(1, loss=0.7) + row(2, "eval", loss=0.5, map=0.9, accuracy=0.5), name=name)
    per_class = [
        {"name": name, "positives": 3, "average_precision": 0.75, "auc": 0.5, "d_prime": 0.1, "recall": 1.0, "precision": None},
        {"name": "absent", "positives": 0, "average_precision": None, "auc": None, "d_prime": None, "recall": None, "precision": None},
    ]
    clip = {"id": f"{name}.mp4", "classes": [name], "probabilities": [0.1], "top": "absent", "top_probability": 0.9, "loss": 2.3}
    figures = {"mode": "multimodal", "frames": "middle", "crops": 1, "clips": 3, "map": 0.75, "accuracy": 0.5, "loss": 1.2}
    found = {"data": name, "split": "test", "views": [{"view": view, **figures, "per_class": per_class, "per_clip": [clip]}]}
    for plot in ("confusion", "precision_recall", "mistakes"):
        draw(run / "evaluation" / "multimodal_middle" / f"{plot}.png")
    (run / "evaluation/evaluation.json").write_text(json.dumps(found))
    return run


def test_names_from_files_are_text(tmp_path: Path) -> None:
    text = report(classifier(tmp_path / "<b>run</b>"))
    page = Page(text)
    assert "<script" not in text.lower()
    assert "<b>" not in text
    assert page.text.count(HOSTILE) >= 4  # the run, the data, the class, the clip
    for expected in ("Confusion matrix", "0.75", "absent", "0.9", "1 worst of 1 mistaken"):
        assert expected in page.text
    assert page.tags.count("img") == 3 + 3  # curves; confusion, precision over recall and mistakes


def change(run: Path, view: dict[str, Any] | None = None, **notes: Any) -> Page:
    """Returns the page of a run after a change of its evaluation."""
    path = run / "evaluation/evaluation.json"
    found = json.loads(path.read_text())
    found["views"][0] |= view or {}
    path.write_text(json.dumps(found | notes))
    return Page(report(run))


def test_an_evaluation_of_an_older_step_is_noted(tmp_path: Path) -> None:
    run = classifier(tmp_path / "run")
    (run / "checkpoints/480").mkdir(parents=True)
    assert "the step isn't recorded" in Page(report(run)).text
    text = change(run, model=HOSTILE, step=300).text
    assert f"{HOSTILE} at step 300." in text
    assert re.search(rf"step 300; .* step 480: python -m launch.evaluate {re.escape(str(run))} ", text)
    assert "step 300" not in change(run, step=480).text
    assert "stopped before a, b" in change(run, lacking=["a", "b"]).text


def test_what_is_left_out_is_shown_where_there_is_something(tmp_path: Path) -> None:
    run = classifier(tmp_path / "run")
    assert "damaged clips" not in change(run, {"damaged_clips": 0, "classes_left_out": 0}).text
    text = change(run, {"damaged_clips": 4, "classes_left_out": 0}).text
    assert "damaged clips" in text
    assert "classes without a clip" not in text


def test_a_measurement_on_few_clips_is_warned_of(tmp_path: Path) -> None:
    run = classifier(tmp_path / "run")
    assert "rough" not in Page(report(run)).text
    assert "b (2) are rough" in change(run, {"warning": "b (2) are rough"}).text
    run = start(tmp_path / "other", row(2, "eval", loss=1.5), {"held_out": {"loss": 1.5}, "warning": "c (1) is rough"})
    (run / "retrieval").mkdir()
    (run / "retrieval/retrieval.json").write_text(json.dumps({"clips": 3, "warning": "only 3 are rough"}))
    text = Page(report(run)).text
    assert "c (1) is rough" in text
    assert "only 3 are rough" in text


def test_gaps_and_edited_lines_are_noted_and_what_is_no_result_is_not_drawn(tmp_path: Path) -> None:
    metrics = row(1, loss=2.0, epoch=0.5, seconds=3.0, pairs_per_second=7.0)
    metrics += row(5, "gap", first=2, last=5) + row(5, "edited") + row(6, "eval", loss=1.0, epoch=3.0, seconds=9.0)
    text = Page(report(start(tmp_path, metrics))).text
    assert "steps 2 to 5" in text
    assert "up to step 5 were edited" in text
    assert "epoch" not in text.split("Curves")[-1].split("Configuration")[0]
    assert "seconds" not in text.split("Results")[-1].split("Retrieval")[0]


def test_names_in_notes_are_text(tmp_path: Path) -> None:
    """A view whose name is markup, in a run whose name is, with a file that can't be read."""
    run = classifier(tmp_path / "<b>run<", view=HOSTILE)
    (run / "summary.json").write_text("{")
    text = report(run)
    page = Page(text)
    assert "<script" not in text.lower()
    assert "<b>" not in text
    assert "Confusion matrix: confusion.png isn't there" in page.text
    assert "<b>run</summary.json can't be read" in page.text


def test_a_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = start(tmp_path, row(1, loss=1.0), summary={"steps": 1, "seconds": 2.0, "held_out": {"loss": 1.0}})
    text = report(run)
    Page(text)
    assert "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'" in text
    outside = re.sub(r"data:image/[^\"]*", "", text)
    assert not re.search(r"https?:|url\(|@import|<link|<iframe|javascript:", outside)
    for kind, data in re.findall(r'data:image/([a-z+]+);base64,([^"]+)"', text):
        content = base64.b64decode(data)
        assert kind == "svg+xml"
        assert b"<script" not in content
        assert not re.search(rb'href="(?!#)', content)


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    page = Page(report(start(tmp_path / "my run")))
    for expected in (
        "No step is logged yet",
        "metrics.jsonl has no line yet",
        f"python -m launch.retrieve '{tmp_path}/my run'",
        f"python -m launch.inpaint '{tmp_path}/my run' FILE --out DIR",
    ):
        assert expected in page.text
    (tmp_path / "tuned").mkdir()
    page = Page(report(start(tmp_path / "tuned", row(1, "eval", map=0.5))))
    assert f"python -m launch.evaluate {tmp_path}/tuned" in page.text
    assert "Retrieval" not in page.text


def test_a_pretraining_run_is_shown_whole(tmp_path: Path) -> None:
    ways = {f"{way}_{name}": 0.125 for way in ("audio_to_image", "image_to_audio") for name in ("r1", "r5", "r10", "median_rank")}
    summary = {"steps": 2, "seconds": 7300.0, "held_out": {"loss": 1.5}, "retrieval": {"clips": 8.0, **ways}}
    run = start(tmp_path, row(1, loss=2.0, nce=3.0, learning_rate=0.1) + row(2, "eval", loss=1.5), summary)
    for step in (2, 10, 9):
        draw(run / "pictures" / f"reconstructions_{step:07d}.png")
    page = Page(report(run))
    assert "Finished: 2 steps; the last session took 2.0 h" in page.text
    assert "among 8 clips" in page.text
    assert "12.5%" in page.text
    assert "Held-out clips after step 10" in page.text
    found = {"clips": 8, "data": "d", "split": "test", "model": "runs/m", "per_class": 5, "chance": {"r1": 0.25, "class": {"r1": 0.5}}}
    found |= {"audio_to_image": {"r1": 0.375, "class": {"r1": 0.75}}, "image_to_audio": {"r1": 0.0}, "ids": ["a"]}
    (run / "retrieval").mkdir()
    (run / "retrieval/retrieval.json").write_text(json.dumps(found))
    draw(run / "retrieval/gallery.png")
    page = Page(report(run))
    assert "audio to image 37.5%" in page.text
    assert "The test clips of d, 5 of each class; evaluated: runs/m." in page.text
    assert "audio to image, any clip of the class 75.0%" in page.text
    assert "12.5%" not in page.text  # shown once


def test_a_run_of_pairs_shows_how_well_it_tells_moments_apart(tmp_path: Path) -> None:
    run = start(tmp_path, row(1, loss=1.0))
    assert "Match over time" not in Page(report(run)).text
    config = json.loads((run / "config.json").read_text())
    config["model"]["kind"], config["data"]["source"] = "sync", "prepared"
    (run / "config.json").write_text(json.dumps(config))
    assert "isn't of it" in Page(report(run)).text
    config["data"]["source"] = "builtin"
    (run / "config.json").write_text(json.dumps(config))
    assert f"launch.sync_check {run}" in Page(report(run)).text
    found = {
        "offset": {"near": 0.625, "chance": 0.143, "answered": 0.25, "right": None},
        "place": {"pointing": {"heat": 0.1, "chance": "?"}},
    }
    (run / "sync_check").mkdir()
    (run / "sync_check/sync_check.json").write_text(json.dumps(found))
    draw(run / "sync_check/match.png")
    page = Page(report(run))
    assert "62.5%" in page.text
    assert "14.3%" in page.text
    assert any("right to half a second in 62.5%" in alt for alt in page.alts)


def test_numbers_that_are_not_finite_and_damaged_lines_are_shown(tmp_path: Path) -> None:
    lines = row(1, loss=1.0) + row(2, loss=math.nan) + row(3, loss=math.inf) + '{"step": 4, "spl\n' + "[]\n" + row(5, loss=0.5, odd_name=1)
    page = Page(report(start(tmp_path, lines)))
    assert "2 damaged lines are left out (line 4, 5)" in page.text
    assert page.tags.count("img") == 2
    page = Page(report(start(tmp_path, row(1, loss=math.nan), {"steps": 1, "seconds": 1, "held_out": {"loss": math.nan}})))
    assert "loss -" in page.text


def test_numbers_of_hundreds_of_digits_pipes_and_deep_lists_dont_spoil_the_page(tmp_path: Path) -> None:
    digits, deep = "9" * 400, "[" * 500 + "]" * 500
    lines = row(1, loss=1.0) + f'{{"step": 2, "split": "train", "loss": {digits}}}\n{{"step": {digits}, "split": "train"}}\n'
    run = start(tmp_path, lines + "[" * 100_000 + "\n")
    (run / "summary.json").write_text(f'{{"steps": {digits}, "seconds": {deep}, "held_out": {{"loss": {digits}, "nce": {deep}}}}}')
    assert "2 damaged lines are left out (line 3, 4)" in Page(report(run)).text
    (run / "summary.json").unlink()
    os.mkfifo(run / "summary.json")
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    assert "summary.json is no regular file" in Page(report(run)).text


def test_controls_and_overrides_of_the_reading_direction_are_shown_as_escapes(tmp_path: Path) -> None:
    text = report(classifier(tmp_path / "run", name="\x1b[31mred\u202e"))
    assert not {"\x1b", "\u202e"} & {*text}
    assert "\\x1b[31mred\\u202e" in Page(text).text


@pytest.mark.parametrize("broken", ["", "{", "[1, 2]", '{"views": 3}', '{"views": [1, {"per_class": [{}], "per_clip": "x"}]}', "\x00"])
def test_half_written_results_dont_spoil_the_page(tmp_path: Path, broken: str) -> None:
    run = classifier(tmp_path)
    for name in ("summary.json", "evaluation/evaluation.json"):
        (run / name).write_text(broken)
    page = Page(report(run))
    assert ("can't be read" in page.text or "no JSON object" in page.text) == (not broken.startswith('{"'))


def test_plots_lie_in_the_run_and_are_pngs(tmp_path: Path) -> None:
    draw(tmp_path / "mistakes.png")
    draw(tmp_path / "run/evaluation/multimodal_middle/confusion.png")
    page = Page(report(classifier(tmp_path / "run", view="../..")))
    assert page.tags.count("img") == 3  # curves
    run = classifier(tmp_path / "run")
    (run / "evaluation/multimodal_middle/confusion.png").write_text("<svg/>")
    assert "confusion.png is no PNG" in Page(report(run)).text


def test_fields_that_differ_from_the_defaults_come_first(tmp_path: Path) -> None:
    page = Page(report(start(tmp_path, name="mine", data=DataConfig(path="/some/where"))))
    assert "2 of" in page.text
    assert page.text.index("data.path /some/where") < page.text.index("whole config.json") < page.text.index('"beta1"')


@pytest.mark.parametrize(
    ("content", "message"), [(None, "config.json"), ("{}", "model, data or train"), ("{", "config.json can't be read")]
)
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        report(tmp_path)


def test_baselines_of_the_same_clips_stand_beside_the_classifier(tmp_path: Path) -> None:
    run = classifier(tmp_path / "run")
    assert "python -m launch.baseline" in Page(report(run)).text
    figures = {"auc": 0.5, "d_prime": 0.1, "top_5_accuracy": None, "loss": 1.0}
    rows = [{"name": f"audio: {HOSTILE}", "given": "audio", "map": 0.8, "accuracy": 0.4, **figures}]
    (run / "baseline.json").write_text(json.dumps({"baselines": rows, "ids": ["a"], "label_names": [HOSTILE]}))
    same = {"ids": ["a"], "label_names": [HOSTILE]}
    assert "The model doesn't beat the baselines (audio and image): mAP 0.750 against 0.800 of audio: <script>" in change(run, same).text
    assert "The model beats the baselines" in change(run, same | {"map": 0.81}).text
    assert "other clips" in change(run, same | {"ids": ["b"]}).text
    (run / "baseline.json").write_text("{")
    assert "baseline.json" in Page(report(run)).text


def test_a_run_without_held_out_clips_advises_no_command_that_fails(tmp_path: Path) -> None:
    for run in (classifier(tmp_path / "classifier"), start(tmp_path / "pretraining", row(1, loss=0.7))):
        (run / "evaluation/evaluation.json").unlink(missing_ok=True)
        (run / "metrics.jsonl").write_text(row(1, "train", loss=0.7, **({"map": 0.1} if run.name == "classifier" else {})))
        (run / "summary.json").write_text(json.dumps({"steps": 1, "seconds": 1.0, "held_out": {}}))
        text = Page(report(run)).text
        commands = re.findall(r"launch\.(?:evaluate|retrieve)[^.]*", text)
        assert "no held-out clips" in text
        assert len(commands) == 1
        assert "--split train" in commands[0]


def test_headings_descend_without_a_gap_and_every_image_is_described(tmp_path: Path) -> None:
    names = ["harp", "oboe"]
    run = classifier(tmp_path / "run", name="mine")
    page = change(run, {"confusion": [[3, 1], [2, 0]], "label_names": names})
    assert page.levels[0] == 1
    assert page.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(page.levels))
    assert 3 in page.levels
    assert len(page.alts) == page.tags.count("img")
    (confusion,) = (alt for alt in page.alts if alt.startswith("Confusion matrix"))
    assert "audio and image, middle frame" in confusion
    assert "oboe taken for harp (2 clips), harp taken for oboe (1 clip)" in confusion
    assert "harp oboe 1 25%" in page.text
    assert "multimodal" not in page.text.split("Configuration")[0]


def test_curves_name_their_best_step_in_light_and_in_dark(tmp_path: Path) -> None:
    metrics = row(1, accuracy=0.25) + row(2, "eval", loss=0.5, accuracy=0.25) + row(4, "eval", loss=0.25, accuracy=0.5)
    page = Page(text := report(start(tmp_path, metrics + row(6, "eval", loss=0.75, accuracy=0.5))))
    assert "loss over steps: held out from 0.500 to 0.750, best held out 0.250 at step 4" in page.alts
    assert "accuracy over steps: training from 25.0% to 25.0%, held out from 25.0% to 50.0%, best held out 50.0% at step 4" in page.alts
    assert page.tags.count("source") == page.tags.count("picture") == len(page.alts) == 2
    for scheme in (LIGHT, DARK):
        assert f"--page: {scheme.page};" in text
    svgs = [base64.b64decode(data).decode() for data in re.findall(r'svg\+xml;base64,([^"]+)"', text)]
    assert [DARK.page in svg for svg in svgs] == [True, False] * 2


def test_large_plots_become_smaller_and_keep_their_size_on_the_page(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((400, 400, 3))
    figure = blank(600, 400)
    show_image(figure, Box(0, 0, 600, 400), noise)
    save(figure, tmp_path / "new.png")
    Image.fromarray((noise * 255).astype(np.uint8)).save(tmp_path / "old.png", dpi=(100, 100))
    for name, width in (("new", 600), ("old", 400)):
        html = image_file(tmp_path / f"{name}.png", "alt")
        assert f'width="{width}" height="400"' in html
        assert f"min-width: {math.ceil(width * 10 / 12)}px" in html
        assert "image/webp" in html
        assert len(html) < (tmp_path / f"{name}.png").stat().st_size
    (tmp_path / "torn.png").write_bytes((tmp_path / "new.png").read_bytes()[:5000])
    assert "damaged" in image_file(tmp_path / "torn.png", "alt")


def listening_run(folder: Path, **files: str) -> Path:
    run = start(folder, row(1, loss=1.0))
    names = {"original": "0_original.wav", "masked": "0_masked.wav", "reconstructed": "0_reconstructed.wav"} | files
    for number, name in enumerate(names.values()):
        if re.fullmatch(r"\w+\.wav", name):
            save_wav(run / "listening" / name, np.full(8000 + number, 0.25))
    clip = {"id": HOSTILE, "files": names, "hidden": 0.75}
    (run / "listening/listening.json").write_text(json.dumps({"step": 300, "norm_pix": True, "clips": [clip, 5]}))
    return run


def test_a_pretraining_run_can_be_listened_to(tmp_path: Path) -> None:
    page = Page(report(listening_run(tmp_path)))
    assert [label.split(" ")[0].strip(":") for label, _ in page.sounds] == ["original", "masked", "reconstructed"]
    for number, (label, data) in enumerate(page.sounds):
        with wave.open(io.BytesIO(data)) as file:
            assert (file.getframerate(), file.getnframes(), file.getsampwidth()) == (16_000, 8000 + number, 2)
        assert "0.5 s" in label
    assert "Griffin-Lim" in page.text
    assert "norm_pix" in page.text
    assert f"{HOSTILE}, 75% hidden" in page.text
    assert "48 KB of audio" in page.text


@pytest.mark.parametrize("name", ["../../secret.wav", "absent.wav", "config.json", ""])
def test_audio_lies_in_the_run_and_is_a_wav(tmp_path: Path, name: str) -> None:
    save_wav(tmp_path / "secret.wav", np.zeros(800))
    run = listening_run(tmp_path / "run", masked="x.wav")
    found = json.loads((run / "listening/listening.json").read_text())
    found["clips"][0]["files"]["masked"] = name
    (run / "listening/listening.json").write_text(json.dumps(found))
    page = Page(report(run))
    assert len(page.sounds) == 2
    assert "masked audio" in page.text
    (run / "listening/0_original.wav").write_bytes(b"RIFF")
    assert len(Page(report(run)).sounds) == 1


def test_images_alone_have_nothing_to_listen_to(tmp_path: Path) -> None:
    sizes = ModelConfig(modality="image", kind="mae")
    assert "python -m launch.report" not in Page(report(start(tmp_path / "a", model=sizes))).text
    assert f"python -m launch.report {tmp_path}/b" in Page(report(start(tmp_path / "b"))).text
