"""Tests that what a pretrained folder knows of its data, measurements and license survives copies, and that strangers' facts do no harm."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import avmae_jax as av
from avmae_jax.weights import folder
from avmae_jax.weights.facts import Facts, Measured, from_json, to_json
from avmae_jax.weights.io import read, with_audio_frames, write
from tests.support import made
from tests.weights.folders import AUDIO, EVERY, change, refused

ROW = Measured("audio and image, middle frame", 72, {"accuracy": 0.9583}, {"accuracy": (0.9, 1.0)}, "instruments")
KNOWN = Facts("apache-2.0", "360 clips", "4000 steps", (ROW, Measured("audio", None, {"r1": 0.25, "median_rank": 3.0}, {})))


def known(place: Path) -> Path:
    """Writes a folder of a classifier that knows KNOWN."""
    folder.save(EVERY["cavmae_classifier"]._replace(facts=KNOWN), place, place)
    return place


def card(place: Path) -> str:
    return (place / "README.md").read_text().replace(place.name, "NAME")


def test_what_is_stored_is_read() -> None:
    assert from_json(json.loads(json.dumps(to_json(KNOWN)))) == KNOWN
    odd = Facts(data="a\nb\uffff\u202e\x00c " + "d" * 400, measured=(ROW._replace(given="\u2028|\t"),) * 200)
    found = from_json(to_json(odd))
    assert found.data.startswith("a b c d")
    assert len(found.data) == 300
    assert found.measured[0].given == "|"
    assert to_json(found) == to_json(odd)


@pytest.mark.slow
def test_a_loaded_folder_is_saved_with_the_card_that_it_had(tmp_path: Path) -> None:
    first = known(tmp_path / "first")
    assert all(
        part in card(first) for part in ("license: apache-2.0", "Trained on 360 clips: 4000 steps", "0.958 (0.90 to 1.00)", "| audio |")
    )
    model = av.load(first)
    model.save_pretrained(tmp_path / "second")
    model.save_pretrained(tmp_path / "third", license="mit")
    assert card(tmp_path / "second") == card(first)
    assert card(tmp_path / "third") == card(first).replace("apache-2.0", "mit")
    assert read(tmp_path / "second").facts == KNOWN


@pytest.mark.slow
def test_the_documented_way_keeps_the_figures_of_the_box(tmp_path: Path) -> None:
    folder.save(read("instruments12"), tmp_path / "boxed", "instruments12", license="apache-2.0")
    av.load(tmp_path / "boxed").save_pretrained(tmp_path / "copy")
    assert card(tmp_path / "copy") == card(tmp_path / "boxed")
    assert "## Measured" in card(tmp_path / "copy")


def test_a_folder_without_facts_is_read_and_knows_nothing(copy: Path, tmp_path: Path) -> None:
    change(copy, lambda content: content.pop("facts"))
    found = read(copy)
    assert found.facts == Facts()
    folder.save(found, tmp_path / "again", copy)
    assert all(part in card(tmp_path / "again") for part in ("license: unknown", "Nothing is known"))


def test_other_places_leave_the_facts_to_the_run(tmp_path: Path) -> None:
    write(made(), tmp_path / "run")
    write(made(), tmp_path / "w.safetensors")
    assert [read(tmp_path / name).facts for name in ("run", "w.safetensors")] == [None, None]


def test_measurements_are_not_those_of_a_model_for_other_audio(tmp_path: Path) -> None:
    weights = made(dataclasses.replace(AUDIO, audio_frames=64), classes=3)._replace(facts=KNOWN)
    assert with_audio_frames(weights, 64).facts == KNOWN
    assert with_audio_frames(weights, 32).facts == KNOWN._replace(measured=())


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ((), [1], "facts is"),
        (("license",), "mit\npipeline_tag: x", "license"),
        (("license",), None, "license"),
        (("data",), "a\n---\n# b", "facts.data"),
        (("data",), "\uffff", "facts.data"),
        (("data",), "\u202eb", "facts.data"),
        (("training",), "x" * 301, "facts.training"),
        (("training",), 3, "facts.training"),
        (("colour",), "red", "facts is"),
        (("measured",), {"0": 1}, "facts.measured is"),
        (("measured",), [{}] * 101, "facts.measured is"),
        (("measured", 1), {}, r"facts.measured[1] is"),
        (("measured", 0, "given"), "a\n|b", "facts.measured[0].given"),
        (("measured", 0, "clips"), -1, "facts.measured[0].clips"),
        (("measured", 0, "clips"), True, "facts.measured[0].clips"),
        (("measured", 0, "figures"), {"x: y\n- z": 1.0}, "facts.measured[0].figures"),
        (("measured", 0, "figures"), {"accuracy": float("nan")}, "facts.measured[0].figures"),
        (("measured", 0, "figures"), {"accuracy": "1"}, "facts.measured[0].figures"),
        (("measured", 0, "figures"), {"accuracy": 10**400}, "too large"),
        (("measured", 0, "intervals"), {"accuracy": [1]}, "facts.measured[0].intervals"),
        (("measured", 0, "intervals"), {"accuracy": [0, None]}, "facts.measured[0].intervals"),
    ],
)
def test_facts_that_cannot_be_are_refused_by_field(where: tuple[Any, ...], value: object, said: str, tmp_path: Path) -> None:
    place = known(tmp_path / "folder")

    def set_in(content: dict[str, Any]) -> None:
        found: Any = content
        *path, last = ("facts", *where)
        for name in path:
            found = found[name]
        found[last] = value

    change(place, set_in)
    assert said in refused(place)


def test_facts_of_a_stranger_stay_text_in_the_card(tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    place = known(tmp_path / "folder")
    text = "# <b>[x](y)</b> | --- : - 'a' \"b\" {c}: &d *e"
    change(place, lambda content: content["facts"].update(data=text, training=text))
    change(place, lambda content: content["facts"]["measured"][0].update(data=text, given=text))
    folder.save(read(place), tmp_path / "copy", place)
    found = huggingface_hub.ModelCard((tmp_path / "copy/README.md").read_text())
    assert {(row.dataset_name, row.metric_value) for row in found.data.eval_results} == {(text, 0.9583)}
    assert "<b>" not in found.text
    (row,) = [line for line in found.text.splitlines() if "0.958" in line]
    assert row.replace(r"\|", "").count("|") == 6
