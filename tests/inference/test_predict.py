"""predict, embed and launch.predict: media of any kind and length through a tiny classifier, against the same by hand."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from absl import app
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import avmae_jax
from avmae_jax import embed, load, predict
from avmae_jax.config import ModelConfig
from avmae_jax.data.batches import example
from avmae_jax.data.decode.many_clips import cut_clips
from avmae_jax.data.decode.one_clip import ClipForm
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import ClipError, WeightsError
from avmae_jax.inference.api import Model
from avmae_jax.inference.predict import Predictor, by_second
from avmae_jax.inference.stream import Ahead, Series
from avmae_jax.inference.windows import Row, of_file, of_parts, rows_of
from avmae_jax.models.modes import find_mode
from avmae_jax.weights.io import Weights, write
from avmae_jax.weights.notes import Notes
from avmae_jax.weights.trained import Trained
from launch import predict as program_predict
from tests.media import numbered, tone, write_clip, write_media
from tests.support import Program, called_here, made

pytestmark = pytest.mark.usefixtures("unpolished")

LENGTH = 1.6  # seconds that the model hears
SMALL = ModelConfig(
    width=16, heads=2, depth=2, decoder_width=8, decoder_heads=2, decoder_depth=1, audio_frames=160, mel_bins=32, image_size=32
)
NAMES = ("harp", "oboe [x]", "lute", "horn")

Call = Callable[..., tuple[int, str, str]]


def weights(classes: int, seed: int = 0, **notes: Any) -> Weights:
    random = made(SMALL, classes, seed)
    params = {name: value * np.float32(0.3) for name, value in random.params.items()}
    return random._replace(params=params, notes=Notes(**notes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models: a classifier and a pretraining model. Media: a film of 5 s, a sound, a picture, two that are broken."""
    root = tmp_path_factory.mktemp("predict")
    write(weights(4, loss="ce", label_names=NAMES), root / "run.safetensors")
    write(weights(0, seed=1), root / "pre.safetensors")
    media = root / "media"
    sound = np.concatenate([tone(300 + 300 * second, 1) for second in range(5)])
    write_media(media / "film.mp4", frames=[numbered(40 * number) for number in range(50)], sound=sound)
    write_clip(media / "deep" / "short.mp4", 1.6, first=700, hertz=2000)
    write_media(media / "sound.wav", sound=tone(500, 2), audio_codec="pcm_s16le")
    Image.fromarray(numbered(77)).save(media / "picture.png")
    (media / "broken.mp4").write_bytes((media / "film.mp4").read_bytes()[:3000])
    (media / "empty.wav").touch()
    (media / "notes.txt").write_text("no media")
    return root


@pytest.fixture(scope="module")
def trained(folder: Path) -> Model:
    return load(folder / "run.safetensors")


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> Model:
    return load(folder / "pre.safetensors")


def tuned_on(trained: Model, mode: str) -> Model:
    return dataclasses.replace(
        trained, config=dataclasses.replace(trained.config, tune=dataclasses.replace(trained.config.tune, mode=mode))
    )


def by_hand(trained: Trained, path: Path, stride: float = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, C] of the windows of a file with both, and the cosines of sound and picture."""
    samples = (SMALL.audio_frames - 1) * 160 + 400
    clips = cut_clips(path, clip_id="x", stride=stride, form=ClipForm(seconds=LENGTH, frame_size=SMALL.image_size))
    rows = [example(clip, len(clip.frames) // 2, samples=samples, image_size=SMALL.image_size) for clip in clips]
    batches = [{name: jnp.asarray(row[name])[None] for name in ("waveform", "samples", "image")} for row in rows]
    logits, audio, image = zip(*(one_by_hand(trained.module, model_inputs(batch, trained.config)) for batch in batches), strict=True)
    return softmax(np.concatenate(logits)), (np.concatenate(audio) * np.concatenate(image)).sum(axis=1)


@nnx.jit
def one_by_hand(model: Any, inputs: Any) -> Any:
    encoder = model.encoder
    means = [encoder.joint(encoder.separate({name: inputs[name]}), name)[f"{name}.patches"].mean(axis=1) for name in ("audio", "image")]
    return model(inputs), *(mean / jnp.linalg.norm(mean, axis=-1, keepdims=True) for mean in means)


def softmax(logits: np.ndarray) -> np.ndarray:
    chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return chances / chances.sum(axis=-1, keepdims=True)


@pytest.mark.slow
def test_the_windows_of_a_film_are_averaged(trained: Model, folder: Path) -> None:
    chances, cosines = by_hand(trained, folder / "media/film.mp4")
    found = predict(trained, folder / "media/film.mp4", top=2)
    assert (found.windows, found.seen, str(found.mode), len(chances)) == (3, "both", "multimodal", 3)
    np.testing.assert_allclose(found.probabilities, chances.mean(axis=0), atol=1e-5)
    assert found.match == pytest.approx(cosines.mean(), abs=1e-5)
    order = np.argsort(-chances.mean(axis=0))[:2]
    assert [name for name, _ in found.top] == [NAMES[label] for label in order]
    assert [value for _, value in found.top] == pytest.approx(found.probabilities[order].tolist())
    assert found.start == pytest.approx(LENGTH * chances[:, order[0]].argmax())
    assert found.timeline is None


@pytest.mark.slow
def test_each_second_has_the_classes_of_the_window_around_it(trained: Model, folder: Path) -> None:
    chances, _ = by_hand(trained, folder / "media/film.mp4", stride=1)
    found = predict(trained, folder / "media/film.mp4", timeline=True)
    assert found.timeline is not None
    np.testing.assert_allclose(found.timeline, chances, atol=1e-5)  # windows of 1.6 s, a second apart: the one that begins there
    assert found.timeline.shape == (5, 4)
    np.testing.assert_allclose(found.probabilities, predict(trained, folder / "media/film.mp4").probabilities, atol=1e-6)
    assert predict(trained, folder / "media/picture.png", timeline=True).timeline is None  # it has no seconds


@pytest.mark.parametrize(("frames", "shots"), [("first", [0]), ("middle", [5]), ("all", list(range(10)))])
def test_the_frames_asked_for_are_looked_at(frames: Any, shots: list[int], folder: Path) -> None:
    film = folder / "media/deep/short.mp4"
    (clip,) = cut_clips(film, clip_id="x", stride=LENGTH, form=ClipForm(seconds=LENGTH, frame_size=SMALL.image_size))
    rows = list(rows_of(of_file(film), 0, SMALL, frames=frames, timeline=False))
    for row, shot in zip(rows, shots, strict=True):
        expected = example(clip, shot, samples=len(row.arrays["waveform"]), image_size=SMALL.image_size)
        np.testing.assert_array_equal(row.arrays["image"], expected["image"])
    assert sum(row.share for row in rows) == pytest.approx(1)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 40), length=st.floats(1, 12), rest=st.floats(0.5, 1))
def test_the_window_of_a_second_is_the_one_whose_centre_is_nearest(count: int, length: float, rest: float) -> None:
    starts = np.arange(count, dtype=np.float64)
    seconds = np.minimum(length, starts[-1] + rest * length - starts)
    found = by_second(Series(starts, seconds, "both", {"probabilities": np.arange(count, dtype=np.float32)[:, None]}))
    centres = starts + seconds / 2
    assert len(found) == pytest.approx((starts + seconds).max(), abs=1.1)
    for second, (window,) in enumerate(found):
        assert abs(centres[int(window)] - second - 0.5) <= np.abs(centres - second - 0.5).min() + 1e-9


def test_all_frames_count_alike_within_a_window(trained: Model, folder: Path) -> None:
    clips = [
        (clip.waveform, clip.frames)
        for clip in cut_clips(folder / "media/film.mp4", clip_id="x", stride=LENGTH, form=ClipForm(seconds=LENGTH))
    ]
    found = predict(trained, folder / "media/film.mp4", frames="all")
    assert found.windows == 3
    first = []
    for waveform, frames in clips:
        pictures = [np.asarray(Image.open(io.BytesIO(frame))) for frame in frames]
        first.append(np.mean([predict(trained, audio=waveform, image=picture).probabilities for picture in pictures], axis=0))
    np.testing.assert_allclose(found.probabilities, np.mean(first, axis=0), atol=2e-3)  # the frames here are shrunk in two steps


@pytest.mark.parametrize(
    ("name", "has", "mode"), [("sound.wav", "audio", "missingaudioonly"), ("picture.png", "image", "missingvideoonly")]
)
def test_a_missing_modality_has_its_mode(name: str, has: str, mode: Any, trained: Model, folder: Path) -> None:
    found = predict(trained, folder / "media" / name)
    assert (found.seen, str(found.mode), found.match) == (has, mode, None)
    (row, *_) = rows_of(of_file(folder / "media" / name), 0, SMALL, frames="middle", timeline=False)
    inputs = model_inputs({key: jnp.asarray(value)[None] for key, value in row.arrays.items()}, trained.config)
    model: Any = trained.module
    logits = np.asarray(nnx.jit(lambda model: model(inputs, find_mode(mode)))(model))[0]
    np.testing.assert_allclose(found.probabilities, softmax(logits), atol=1e-5)
    vectors = embed(trained, folder / "media" / name)
    assert [vector is not None for vector in (vectors.audio, vectors.image, vectors.joint)] == [has == "audio", has == "image", False]


def test_a_model_of_one_modality_says_what_it_lacks(trained: Model, folder: Path) -> None:
    heard, seen = tuned_on(trained, "audioonly"), tuned_on(trained, "videoonly")
    both = predict(heard, folder / "media/film.mp4")
    assert (str(both.mode), both.seen, both.match) == ("audioonly", "both", None)  # what wasn't tuned is no match for what was
    with pytest.raises(ClipError, match=r"picture\.png has no audio.* audioonly"):
        predict(heard, folder / "media/picture.png")
    with pytest.raises(ClipError, match=r"sound\.wav has no images.* videoonly"):
        predict(seen, folder / "media/sound.wav")


@pytest.mark.parametrize("given", ["audio", "missingaudioonly"])
@pytest.mark.slow
def test_what_is_given_has_a_plain_and_an_official_name(given: str, trained: Model, folder: Path) -> None:
    with pytest.raises(ClipError, match=r"picture\.png has no audio.*given=audio"):
        trained.predict(folder / "media/picture.png", given=given)
    found = trained.predict(folder / "media/film.mp4", given=given)
    assert (str(found.mode), found.seen) == ("missingaudioonly", "both")
    np.testing.assert_allclose(found.probabilities, trained.predict(audio=folder / "media/film.mp4").probabilities, atol=1e-5)


def test_arrays_give_what_their_files_give(trained: Model, folder: Path) -> None:
    sound, picture = folder / "media/sound.wav", folder / "media/picture.png"
    waveform = np.rint(32_768 * tone(500, 2)).clip(-32_768, 32_767).astype(np.int16)
    files = predict(trained, audio=sound, image=picture)
    assert (files.windows, files.seen) == (1, "both")  # the rest of 0.4 s is no window
    assert files.match is not None
    floats = waveform.astype(np.float64) / 32_768
    for audio in (waveform, floats.astype(np.float32), floats, np.stack([floats, 0 * floats], axis=1)):
        arrays = predict(trained, audio=audio, image=numbered(77))
        np.testing.assert_allclose(arrays.probabilities, files.probabilities, atol=2e-3)  # the file's picture was shrunk in another way
        np.testing.assert_allclose(predict(trained, audio=audio).probabilities, predict(trained, sound).probabilities, atol=1e-4)
    fast = predict(trained, audio=tone(500, 2, rate=48_000).astype(np.float64)[:, None], sample_rate=48_000)
    np.testing.assert_allclose(fast.probabilities, predict(trained, sound).probabilities, atol=5e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "neither audio nor image"),
        ({"audio": np.zeros(16_000, np.int32)}, r"audio is int32\[16000\]"),
        ({"audio": np.zeros((2, 16_000), np.float32)}, r"audio is float32\[2, 16000\]"),
        ({"audio": np.full(16_000, 300, np.float32)}, r"300;.* \[-1, 1\]"),
        ({"audio": np.full(16_000, np.nan, np.float32)}, "16000 samples"),
        ({"audio": np.zeros(399, np.int16)}, "399 samples.* 400"),
        ({"audio": np.zeros(16_000, np.int16), "sample_rate": 0}, "sample_rate is 0"),
        ({"audio": np.zeros(16_000, np.int16), "sample_rate": 44.1}, "sample_rate is 44.1"),
        ({"image": np.zeros((32, 32), np.uint8)}, r"image is uint8\[32, 32\]"),
        ({"image": np.zeros((32, 32, 3), np.float32)}, "image is float32"),
        ({"media": "x.mp4", "audio": np.zeros(16_000, np.int16)}, "not both"),
        ({"media": np.zeros(16_000, np.int16)}, "media is a ndarray"),
    ],
)
def test_what_is_no_input_is_named(given: dict[str, Any], said: str, trained: Model) -> None:
    for ask in (predict, embed):
        with pytest.raises(ValueError, match=said):
            ask(trained, **given)


def test_options_that_cannot_be_are_named(trained: Model) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [({"given": "none"}, "'none'"), ({"frames": "none"}, "frames"), ({"top": 0}, "top is 0")]
    for options, said in wrong:
        with pytest.raises(ValueError, match=said):
            predict(trained, image=numbered(1), **options)


def test_files_that_are_no_input_are_named(trained: Model, folder: Path) -> None:
    for options, said in (
        ({"media": "nowhere.mp4"}, "nowhere.mp4 does not exist"),
        ({"media": folder / "media/empty.wav"}, "is empty"),
        ({"image": folder / "media/film.mp4"}, "image"),
        ({"audio": folder / "media/picture.png"}, "has no audio"),
    ):
        with pytest.raises(ClipError, match=said):
            predict(trained, **options)


@pytest.mark.slow
def test_a_pretraining_model_gives_matches_and_vectors(pretrained: Model, trained: Model, folder: Path) -> None:
    found, vectors = predict(pretrained, folder / "media/film.mp4"), embed(pretrained, folder / "media/film.mp4")
    assert (found.top, found.mode, len(found.probabilities)) == ((), None, 0)
    assert vectors.audio is not None and vectors.image is not None and vectors.joint is not None  # noqa: PT018
    assert found.directions is not None
    np.testing.assert_allclose(found.directions, [vectors.audio, vectors.image], atol=1e-5)
    assert [float(np.linalg.norm(vector)) for vector in (vectors.audio, vectors.image, vectors.joint)] == pytest.approx([1, 1, 1])
    assert predict(trained, folder / "media/film.mp4", match_with=pretrained).match == pytest.approx(found.match, abs=1e-5)
    with pytest.raises(ClipError, match=r"sound\.wav has no images.*match.*fine-tune"):
        predict(pretrained, folder / "media/sound.wav")
    for options in ({"timeline": True}, {"given": "both"}):
        with pytest.raises(ValueError, match=r"no classes.*fine-tune"):
            predict(pretrained, folder / "media/film.mp4", **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_batches_are_shared_and_change_nothing(trained: Model, folder: Path) -> None:
    media = [of_file(folder / "media" / name) for name in ("film.mp4", "sound.wav", "empty.wav", "deep/short.mp4", "picture.png")] * 3
    for size in (2, 8):
        found = dict(Predictor(trained, batch_size=size)(iter(media), threads=3))
        assert sorted(found) == list(range(15))
        for number, result in found.items():
            if number % 5 == 2:
                assert isinstance(result, ClipError)
                continue
            assert not isinstance(result, Exception)
            name = str(media[number].name)
            np.testing.assert_allclose(result.probabilities, predict(trained, name).probabilities, atol=1e-5)


@pytest.mark.slow
def test_a_list_gives_results_in_order_with_errors_in_their_places(trained: Model, folder: Path) -> None:
    media = [folder / "media" / name for name in ("film.mp4", "empty.wav", "picture.png", "sound.wav")]
    for results, single in ((trained.predict([*map(str, media)]), trained.predict), (trained.embed(media), trained.embed)):
        assert isinstance(results[1], ClipError)
        assert results[1].path == str(media[1])
        for number in (0, 2, 3):
            expected = single(media[number])
            assert repr(results[number]) == repr(expected)
            assert results[number].windows == expected.windows
    assert trained.predict([]) == []


@pytest.mark.parametrize("name", ["again.safetensors", "again"])
def test_a_saved_model_predicts_the_same(name: str, trained: Model, folder: Path, tmp_path: Path) -> None:
    trained.save(tmp_path / name)
    again = load(tmp_path / name)
    assert (again.kind, again.label_names, again.config) == (trained.kind, trained.label_names, trained.config)
    expected = trained.predict(folder / "media/sound.wav")
    np.testing.assert_array_equal(again.predict(folder / "media/sound.wav").probabilities, expected.probabilities)
    with pytest.raises(WeightsError, match=name):
        trained.save(tmp_path / name)


def test_a_model_and_its_results_have_short_descriptions(trained: Model, folder: Path) -> None:
    many = dataclasses.replace(trained, label_names=("a very long name of a class " * 9,) * 4, path="long/" * 99)
    for model in (trained, many):
        assert len(repr(model).splitlines()) <= 4
        assert len(repr(model)) < 400
    assert all(part in repr(trained) for part in ("cavmae_classifier", "4 classes", "harp", "160", "multimodal"))
    found = trained.predict(folder / "media/sound.wav", top=2)
    assert all(f"{name} {probability:.1%}" in repr(found) for name, probability in found.top)
    assert "\n" not in repr(found)
    assert "audio [16]" in repr(trained.embed(folder / "media/sound.wav"))


def test_every_public_name_is_listed_and_can_be_imported() -> None:
    names = dir(avmae_jax)
    assert {"load", "predict", "embed", "pretrain", "finetune", "Config", "ModelConfig", "AvmaeError", "AST", "MAE", "CAVMAE"} <= {*names}
    assert [name for name in names if getattr(avmae_jax, name, None) is None] == []
    assert re.match(r"\d", avmae_jax.__version__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = avmae_jax.nothing


def test_few_rows_are_held_and_threads_end(folder: Path) -> None:
    made = 0

    def rows(*_: Any) -> Iterator[Row]:
        nonlocal made
        while True:
            made += 1
            yield Row(0, "windows", made, 0.0, 1.0, "audio", 1.0, {})

    ahead = Ahead([of_parts(np.zeros(800, np.int16), None)] * 2, rows, threads=2)
    items = iter(ahead)
    for _ in range(3):
        next(items)
    items.close()  # pyright: ignore[reportAttributeAccessIssue]
    for thread in ahead._threads:
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert made < 30


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Calls the program in this process; gives the exit status and what it prints."""
    with called_here(program_predict) as main:

        def printed(*arguments: object) -> tuple[int, str, str]:
            with pytest.raises(SystemExit) as ended:
                main(*arguments)
            code, said = ended.value.code, capsys.readouterr()
            return (code, said.out, said.err) if isinstance(code, int) else (1, said.out, str(code))

        yield printed


@pytest.mark.slow
def test_a_folder_with_broken_files_is_predicted_but_for_them(call: Call, folder: Path, tmp_path: Path, trained: Model) -> None:
    out = [f"--json={tmp_path}/out.json", f"--csv={tmp_path}/out.csv", f"--explain={tmp_path}/pictures"]
    status, printed, _ = call(folder / "media", f"--model={folder}/run.safetensors", "--top=2", "--timeline", *out)
    assert status == program_predict.SOME_FAILED == 3
    found = json.loads((tmp_path / "out.json").read_text())
    names = [Path(told["file"]).relative_to(folder / "media").as_posix() for told in found["files"]]
    assert names == ["broken.mp4", "deep/short.mp4", "empty.wav", "film.mp4", "picture.png", "sound.wav"]
    assert (found["failed"], [name for name, told in zip(names, found["files"], strict=True) if "error" in told]) == (
        2,
        ["broken.mp4", "empty.wav"],
    )
    assert [found["files"][number]["stage"] for number in (0, 2)] == ["open", "open"]
    film, expected = found["files"][3], predict(trained, folder / "media/film.mp4", top=2)
    assert [row["class"] for row in film["classes"]] == [name for name, _ in expected.top]
    assert [row["probability"] for row in film["classes"]] == pytest.approx([value for _, value in expected.top], abs=1e-5)
    assert (film["windows"], film["mode"], film["match_among"], film["match_rank"] in (1, 2)) == (3, "multimodal", 2, True)
    assert [row["second"] for row in film["timeline"]] == list(range(5))
    assert all(len(row["classes"]) == 2 for row in film["timeline"])
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["file"] for row in rows if not row["second"]] == [told["file"] for told in found["files"]]
    assert [row["error"] for row in rows if row["file"].endswith("empty.wav")] == [found["files"][2]["error"]]
    assert next(float(row["probability_1"]) for row in rows if row["file"] == film["file"]) == film["classes"][0]["probability"]
    assert [row["second"] for row in rows if row["file"] == film["file"]] == ["", "0", "1", "2", "3", "4"]
    pictures = {"short.png", "film.png", "picture.png", "sound.png"}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == pictures
    for word in ("film.mp4", "1 of 2", "2 of 6", "[open]", expected.top[0][0]):
        assert word in printed


def test_one_file_needs_no_more_than_its_name(call: Call, folder: Path) -> None:
    status, printed, _ = call(folder / "media/film.mp4", "--model", folder / "run.safetensors")
    assert status == 0
    assert all(name in printed for name in NAMES)
    status, printed, shown = call(folder / "media/sound.wav", "--model", folder / "run.safetensors", "--json=-")
    assert (status, json.loads(printed)["files"][0]["mode"]) == (0, "missingaudioonly")
    assert "sound.wav" in shown


def test_a_pretraining_checkpoint_says_how_to_get_classes(
    call: Call, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "absl"):
        status, printed, _ = call(
            folder / "media/film.mp4", folder / "media/sound.wav", "--model", folder / "pre.safetensors", f"--csv={tmp_path}/x.csv"
        )
    assert status == 3
    assert f"launch.finetune --config.init_from={folder}/pre.safetensors" in caplog.text
    assert re.search(r"sound\.wav.*images", printed)
    film, sound = csv.DictReader((tmp_path / "x.csv").read_text().splitlines())
    assert -1 <= float(film["match"]) <= 1
    assert "images" in sound["error"]


def test_all_failed_is_another_status(call: Call, folder: Path) -> None:
    status, printed, _ = call(folder / "media/empty.wav", "nowhere.mp4", "--model", folder / "run.safetensors")
    assert status == 1
    assert all(word in printed for word in ("2 of 2", "empty.wav", "nowhere.mp4"))


def test_errors_are_one_line(call: Call, folder: Path, tmp_path: Path) -> None:
    film = folder / "media/film.mp4"
    (tmp_path / "none").mkdir()
    for arguments, said in (
        ([film, f"--model={tmp_path}/none"], "WeightsError: "),
        ([tmp_path / "none", f"--model={folder}/run.safetensors"], f"DatasetError: {tmp_path}/none .*mp4"),
        ([film, f"--model={folder}/pre.safetensors", "--timeline"], r"ValueError: .*pre\.safetensors.*launch\.finetune"),
    ):
        status, _, error = call(*arguments)
        assert status == 1
        assert "\n" not in error
        assert re.search(said, error), error


def test_wrong_usage_is_told_before_anything_is_loaded(call: Call, folder: Path) -> None:
    film, run = folder / "media/film.mp4", f"--model={folder}/run.safetensors"
    for arguments in ([run], [film], [film, run, "--json=-", "--csv=-"], [film, run, "--json=/nowhere/x.json"]):
        with pytest.raises(app.UsageError) as error:
            call(*arguments)
        assert error.value.exitcode == 2


def test_the_command_works_as_a_user_gives_it(program: Program, folder: Path) -> None:
    done = program("-m", "launch.predict", folder / "media/sound.wav", "--model", folder / "run.safetensors", "--top", 1, "--csv", "-")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "file,class_1,probability_1,seen,mode,windows,match,match_rank,match_among,error"
