"""Vectors of clips: what they are, whatever the batch; files that give back what was written, and refuse what isn't theirs."""

import dataclasses
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import AppliedConfig, ModelConfig, TuneConfig
from avmae_jax.data.batches import EvalOptions, eval_batches
from avmae_jax.data.clip import Clip
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import WeightsError
from avmae_jax.inference.embed import KINDS, DatasetEmbedder, Part, fingerprint, kinds_of, needs_of, note_of
from avmae_jax.inference.embedding_files import Embeddings, collect, read_embeddings, write_embeddings
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.encoder import Encoder
from avmae_jax.models.mae import MAE
from avmae_jax.models.pooling import pool, unit_length
from avmae_jax.weights.trained import Trained
from tests.support import ODD, Clips

SMALL = dataclasses.replace(ODD, depth=2, joint_depth=1)
SUFFIXES = [".npz", ".array_record"]


CROPS = 3  # windows that cover the audio of Clips


class Mixed(Clips):
    """Ten clips: number 2 is deaf, number 5 blind, number 7 has no class and the others one or two."""

    label_names: Sequence[str] = ("harp", "oboe", "horn")

    def __getitem__(self, index: int) -> Clip:
        clip = super().__getitem__(index)._replace(labels=() if index == 7 else (0, 2) if index == 4 else (index % 3,))
        return clip._replace(waveform=clip.waveform[:0]) if index == 2 else clip._replace(frames=()) if index == 5 else clip


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained("model", CAVMAE(SMALL, rngs=nnx.Rngs(0)), AppliedConfig(model=SMALL), 0, ())


@pytest.fixture(scope="module")
def embedded(trained: Trained) -> tuple[list[Part], Embeddings]:
    source = Mixed(10)
    parts = list(DatasetEmbedder(trained, batch_size=4)(source))
    return parts, collect(parts, note_of(trained, source, KINDS, data="somewhere", split="test"))


def test_a_kind_that_is_asked_for_twice_is_written_once(trained: Trained, tmp_path: Path) -> None:
    twice = ["image", "audio", "image"]
    assert kinds_of(twice) == ("image", "audio")
    assert needs_of(["audio", "audio"]) == "audio"
    source = Clips(2)
    write_embeddings(tmp_path / "e.npz", DatasetEmbedder(trained, twice, 4)(source), note_of(trained, source, twice))
    found = read_embeddings(tmp_path / "e.npz")
    assert (found.note["what"], list(found.vectors)) == (["image", "audio"], ["image", "audio"])


def test_the_vectors_are_pooled_features(trained: Trained, embedded: tuple[list[Part], Embeddings]) -> None:
    """Against the model's own features and a joint pass, averaged over the windows that cover the audio."""
    found = embedded[1]
    batches = list(eval_batches(Clips(2), SMALL, trained.config.data, 8, EvalOptions(crops=CROPS)))
    batch = {name: np.concatenate([one[name] for one in batches]) for name in batches[0]}
    arrays = {name: jnp.asarray(value) for name, value in batch.items() if name != "id"}

    @nnx.jit
    def features(encoder: Encoder, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        tokens = encoder.separate(model_inputs(batch, trained.config))
        own = {"audio": encoder.joint(tokens, "audio"), "image": encoder.joint(tokens, "image"), "joint": encoder.joint(tokens)}
        return {kind: unit_length(pool(values)) for kind, values in own.items()}

    expected = features(trained.module.encoder, arrays)  # pyright: ignore[reportAttributeAccessIssue]
    assert found.ids[:2] == ["clip0", "clip1"]
    for kind in KINDS:
        means = unit_length(jnp.asarray(expected[kind]).reshape(2, CROPS, -1).mean(axis=1))
        np.testing.assert_allclose(found.vectors[kind][:2], means, atol=2e-6)


def test_a_clip_has_what_it_can_have_and_keeps_its_labels(embedded: tuple[list[Part], Embeddings]) -> None:
    parts, found = embedded
    assert sorted(found.ids) == sorted(f"clip{n}" for n in range(10))
    assert len({frozenset(part.vectors) for part in parts}) == 3
    for row, name in enumerate(found.ids):
        number = int(name.removeprefix("clip"))
        assert found.positions[row] == number
        assert found.labels[row] == Mixed(10)[number].labels
        assert {kind: bool(found.has[kind][row]) for kind in KINDS} == {
            "audio": number != 2,
            "image": number != 5,
            "joint": number not in (2, 5),
        }
        for kind in KINDS:
            length = np.linalg.norm(found.vectors[kind][row])
            assert length == pytest.approx(1) if found.has[kind][row] else length == 0


def test_clips_that_lack_what_is_wanted_are_left_out(trained: Trained) -> None:
    source = Mixed(6)
    sounds = collect(DatasetEmbedder(trained, ("audio",), 4)(source), note_of(trained, source, ("audio",)))
    assert sounds.ids == ["clip0", "clip1", "clip3", "clip4", "clip5"]
    with pytest.raises(ValueError, match="joint"):
        collect([], note_of(trained, source, ("joint",)))


def test_a_clip_that_took_anothers_place_is_there_once(trained: Trained) -> None:
    class Again(Clips):
        def __getitem__(self, index: int) -> Clip:
            return super().__getitem__(1 if index == 0 else index)

    assert [part.ids for part in DatasetEmbedder(trained, ("audio",), 4)(Again(3))] == [["clip1", "clip2"]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_gives_back_what_was_written(suffix: str, embedded: tuple[list[Part], Embeddings], tmp_path: Path) -> None:
    parts, expected = embedded
    file = tmp_path / f"e{suffix}"
    assert write_embeddings(file, iter(parts), expected.note) == 10
    found = read_embeddings(file)
    assert (found.ids, found.labels, found.note) == (expected.ids, expected.labels, expected.note)
    np.testing.assert_array_equal(found.positions, expected.positions)
    for kind in KINDS:
        np.testing.assert_array_equal(found.vectors[kind], expected.vectors[kind])
        np.testing.assert_array_equal(found.has[kind], expected.has[kind])
    with pytest.raises(WeightsError, match=file.name):
        write_embeddings(file, iter(parts), expected.note)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_left_of_a_file_that_was_not_finished(suffix: str, embedded: tuple[list[Part], Embeddings], tmp_path: Path) -> None:
    def broken() -> Iterator[Part]:
        yield embedded[0][0]
        raise ValueError("the source is broken")

    with pytest.raises(ValueError, match="the source is broken"):
        write_embeddings(tmp_path / f"e{suffix}", broken(), embedded[1].note)
    with pytest.raises(ValueError, match="audio or image or joint"):
        write_embeddings(tmp_path / f"e{suffix}", [], embedded[1].note)
    assert not list(tmp_path.iterdir())


def test_an_npz_is_written_without_all_vectors_in_memory(tmp_path: Path) -> None:
    """NumPy copies 16 MiB of an array at a time."""

    def many() -> Iterator[Part]:
        for start in range(0, 12_000, 100):
            rows = np.full((100, 1000), start, np.float32)
            yield Part([f"{start + n}" for n in range(100)], list(range(start, start + 100)), [()] * 100, {"audio": rows})

    note = {"width": 1000, "what": ["audio"], "label_names": []} | dict.fromkeys(("model", "fingerprint", "data", "split", "needs"), "")
    tracemalloc.start()
    write_embeddings(tmp_path / "e.npz", many(), note)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "e.npz").stat().st_size > 48_000_000
    assert peak < 24_000_000
    assert (read_embeddings(tmp_path / "e.npz").vectors["audio"][:, 7] == np.arange(12_000) // 100 * 100).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.98])
def test_a_damaged_file_is_refused(suffix: str, kept: float, embedded: tuple[list[Part], Embeddings], tmp_path: Path) -> None:
    file = tmp_path / f"e{suffix}"
    write_embeddings(file, embedded[0], embedded[1].note)
    content = file.read_bytes()
    file.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(WeightsError, match=f"{file} .*launch.embed"):
        read_embeddings(file)


def test_other_files_are_refused(embedded: tuple[list[Part], Embeddings], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    np.savez(tmp_path / "b.npz", note=np.array({"what": []}, object), allow_pickle=True)
    for file in ("a.npz", "b.npz", "none.npz", "none.array_record"):
        with pytest.raises(WeightsError, match=f"{file} .*launch.embed"):
            read_embeddings(tmp_path / file)
    with pytest.raises(WeightsError, match=r"\.npz or \.array_record"):
        read_embeddings(tmp_path / "a.csv")
    with pytest.raises(WeightsError, match=r"\.npz or \.array_record"):
        write_embeddings(tmp_path / "a.csv", embedded[0], embedded[1].note)


BAD_ARRAYS: dict[str, np.ndarray] = {
    "id": np.array(["a", "b", "c"]),
    "position": np.array(0),
    "labels": np.zeros(3, np.float32),
    "label_ends": np.array([5]),
    "has_audio": np.zeros(3),
    "audio": np.zeros((3, 16), "f8"),
    "note": np.array("[" * 100_000),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_an_array_of_another_type_is_refused_by_name(name: str, embedded: tuple[list[Part], Embeddings], tmp_path: Path) -> None:
    write_embeddings(tmp_path / "a.npz", embedded[0], embedded[1].note)
    with np.load(tmp_path / "a.npz") as arrays:
        np.savez(tmp_path / "b.npz", **{**arrays, name: BAD_ARRAYS[name]})  # pyright: ignore[reportArgumentType]
    with pytest.raises(WeightsError, match=r"b\.npz .*launch\.embed") as error:
        read_embeddings(tmp_path / "b.npz")
    assert "\n" not in str(error.value)


HEADERS = {
    "long": "{'descr': '|S1', 'fortran_order': False, 'shape': (1,), }" + " " * 50_000,
    "huge": "{'descr': '<i8', 'fortran_order': False, 'shape': (100000000000000,), }",
    "empty items": "{'descr': '|S0', 'fortran_order': False, 'shape': (100000000000000,), }",
    "nested": "(" * 5000,
    "object": "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "text": "no header",
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("name", ["id", "note", "position"])
def test_a_header_that_claims_anything_is_refused(kind: str, name: str, embedded: tuple[list[Part], Embeddings], tmp_path: Path) -> None:
    write_embeddings(tmp_path / "a.npz", embedded[0], embedded[1].note)
    header = HEADERS[kind].encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz") as whole, zipfile.ZipFile(tmp_path / "b.npz", "w") as changed:
        for member in whole.namelist():
            own = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header
            changed.writestr(member, own if member == f"{name}.npy" else whole.read(member))
    with pytest.raises(WeightsError, match=r"b\.npz .*launch\.embed") as error:
        read_embeddings(tmp_path / "b.npz")
    assert "\n" not in str(error.value)


def test_an_array_that_inflates_is_refused_before_it_is(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", audio=np.zeros(1 << 24, np.uint8))
    with pytest.raises(WeightsError, match=rf"a\.npz .*claim {(1 << 24) + 128} bytes"):
        read_embeddings(tmp_path / "a.npz")


@pytest.mark.parametrize("change", [{"width": 3}, {"label_names": ["one"]}, {"what": ["audio", "smell"]}, {"fingerprint": 5}])
def test_a_note_that_does_not_fit_is_refused(change: dict[str, object], embedded: tuple[list[Part], Embeddings], tmp_path: Path) -> None:
    write_embeddings(tmp_path / "a.npz", embedded[0], embedded[1].note)
    with np.load(tmp_path / "a.npz") as arrays:
        note = np.array(json.dumps({**embedded[1].note, **change}))
        np.savez(tmp_path / "b.npz", **{**arrays, "note": note})  # pyright: ignore[reportArgumentType]
    with pytest.raises(WeightsError, match=r"b\.npz .*launch\.embed"):
        read_embeddings(tmp_path / "b.npz")
    with pytest.raises(ValueError, match=r"width.* 3"):
        write_embeddings(tmp_path / "c.npz", embedded[0], {**embedded[1].note, "width": 3})


def test_a_fingerprint_tells_encoders_apart_and_nothing_else(trained: Trained) -> None:
    def of(model: CAVMAE | CAVMAEClassifier, config: AppliedConfig = trained.config) -> str:
        return fingerprint(Trained("elsewhere", model, config, 0, ()))

    same = fingerprint(trained)
    classifier = CAVMAEClassifier(SMALL, 3, rngs=nnx.Rngs(1))
    tuned = AppliedConfig(model=dataclasses.replace(SMALL, kind="cavmae_classifier"))
    assert of(classifier, tuned) != same
    nnx.update(classifier.encoder, nnx.state(trained.module.encoder))  # pyright: ignore[reportAttributeAccessIssue]
    assert of(classifier, tuned) == same
    louder = dataclasses.replace(tuned, data=dataclasses.replace(tuned.data, audio_mean=-4.0))
    assert of(classifier, louder) != same
    assert of(classifier, dataclasses.replace(tuned, data=dataclasses.replace(tuned.data, normalise="clip"))) != same
    norm = classifier.encoder.norm["audio"]
    norm.bias[...] = norm.bias[...].at[0].add(jnp.float32(1e-6))
    assert of(classifier, tuned) != same


def test_what_cannot_be_is_named() -> None:
    assert [needs_of([kind]) for kind in KINDS] == ["audio", "image", "both"]
    assert needs_of(["audio", "joint"]) == "any"
    for what in ([], ["smell"]):
        with pytest.raises(ValueError, match="audio, image, joint"):
            needs_of(what)
    one = ModelConfig(
        kind="mae", modality="audio", size="tiny", width=16, heads=2, depth=1, audio_frames=32, decoder_width=8, decoder_heads=2
    )
    with pytest.raises(ValueError, match=r"hears .*audio"):
        DatasetEmbedder(Trained("hears", MAE(one, rngs=nnx.Rngs(0)), AppliedConfig(model=one), 0, ()))


def test_a_part_needs_no_more_than_its_kinds(trained: Trained) -> None:
    """A picture is not even decoded where only sounds are wanted."""

    class Damaged(Clips):
        def __getitem__(self, index: int) -> Clip:
            return super().__getitem__(index)._replace(frames=(b"no picture",))

    (part,) = DatasetEmbedder(trained, ("audio",), 4)(Damaged(2))
    assert set(part.vectors) == {"audio"}
    with pytest.raises(ValueError, match="clip0, frame 0"):
        list(DatasetEmbedder(trained, ("image",), 4)(Damaged(2)))


def test_a_model_tuned_on_one_modality_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for mode, warned in (("multimodal", False), ("audioonly", True)):
        caplog.clear()
        config = AppliedConfig(model=dataclasses.replace(SMALL, kind="cavmae_classifier"), tune=TuneConfig(mode=mode))
        DatasetEmbedder(Trained("tuned", CAVMAEClassifier(SMALL, 3, rngs=nnx.Rngs(0)), config, 3, ()))
        assert ("audioonly" in caplog.text) == warned
