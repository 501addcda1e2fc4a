"""Tests that config.json of a pretrained folder is held against the tensors: what lies, lacks or is damaged is refused in one line."""

import dataclasses
import random
import re
from pathlib import Path
from typing import Any

import pytest

from avmae_jax.errors import AvmaeError
from avmae_jax.weights import folder
from avmae_jax.weights.io import Weights, read
from tests.damage import CHANGES
from tests.weights.files import assert_same
from tests.weights.folders import EVERY, change, refused

LIES = [
    ("model", "width", 32, r"model\.width is 32, .* 16 \(patch_embed_v\.proj\.weight is \(16, 3, 8, 8\), expected \(32, 3, 8, 8\)\)"),
    ("model", "width", 10**9, r"model\.width is 1000000000"),
    ("model", "depth", 10**9, r"model\.depth is 1000000000, .* 3"),
    ("model", "heads", 4, r"model\.heads is 4, .* 2"),
    ("model", "audio_frames", 80, r"model\.audio_frames is 80, .*pos_embed_a is \(1, 6, 16\), expected \(1, 20, 16\)"),
    ("model", "image_size", 32, r"model\.image_size is 32, .*pos_embed_v is \(1, 4, 16\), expected \(1, 16, 16\)"),
    ("model", "mlp_ratio", 3.0, r"model\.mlp_ratio is 3\.0, .*blocks_u\.0\.mlp\.fc1\.weight is \(32, 16\)"),
    ("model", "mlp_ratio", 10**400, "too large"),
    ("data", "audio_mean", 10**400, "too large"),
    ("model", "mlp_ratio", float("nan"), r"model\.mlp_ratio is nan"),
    ("model", "joint_depth", 1, r"model\.joint_depth is 1, .* 2"),
    ("model", "norm_eps", 1e-3, r"model\.norm_eps is 0\.001, .*1e-05"),
    ("model", "norm_eps", float("nan"), r"model\.norm_eps is nan"),
    ("model", "width", "16", r"model\.width is '16'"),
    ("model", "heads", 3, r"model\.width is 16.*heads = 3"),
    ("model", "colour", 3, r"unknown.*colour"),
    ("model", "kind", "mae", r"model\.kind is 'mae'"),
    ("model", "modality", "audio", r"model\.modality is audio, .* both"),
    ("data", "audio_mean", -4, r"data\.audio_mean is -4\.0, .*-5\.5"),
    ("data", "audio_std", 0, r"data\.audio_std 0"),
    ("data", "gain", 1, r"unknown.*data\.gain"),
    ("tune", "mode", "both", r"tune\.mode.*'both'"),
    ("window", "seconds", 10, r"window is .*10.* 0\.24"),
    (None, "kind", "cavmae", r"model\.kind is cavmae, .*cavmae_classifier"),
    (None, "kind", "mae", r"model\.kind is mae, .*CAV-MAE"),
    (None, "kind", "transformer", r"kind is 'transformer'.*cavmae_classifier.*ast"),
    (None, "kind", ["mae"], r"kind is \['mae'\]"),
    (None, "classes", 7, r"classes is 7, .* 5 \(mlp_head\.1\.weight \(5, 16\)\)"),
    (None, "label_names", ["a"], r"label_names .* 5 "),
    (None, "label_names", "abcde", r"label_names .* 5 "),
    (None, "calibration", None, r"calibration"),
    (None, "format", 2, r"format is 2, .*newer.*update"),
    (None, "format", "1", r"format is '1'"),
    (None, "format", True, r"format is True"),
    (None, "auto_map", {"AutoModel": "modeling.Evil"}, r"unknown.*auto_map"),
    (None, "library_name", "transformers", r"library_name is 'transformers'.*model\.safetensors"),
    (None, "model", [1], r"model is \[1\]"),
]  # fmt: skip


@pytest.mark.parametrize(("group", "field", "value", "said"), LIES)
def test_a_config_that_lies_is_refused_by_field_and_tensor(group: str | None, field: str, value: Any, said: str, copy: Path) -> None:
    change(copy, lambda content: (content if group is None else content[group]).update({field: value}))
    assert re.search(said, refused(copy))


@pytest.mark.parametrize("name", ["mae", "mae of audio", "ast"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 32), ("depth", 2), ("patch", 4), ("decoder_width", 4), ("decoder_depth", 1), ("image_size", 32), ("audio_frames", 64),
     ("mel_bins", 24), ("mlp_ratio", 4.0), ("class_token", None), ("heads", 1), ("modality", None),
     ("width", 2**40), ("audio_frames", 2**40)],
)  # fmt: skip
def test_a_config_of_another_mae_or_ast_is_refused(name: str, field: str, value: Any, tmp_path: Path) -> None:
    folder.save(EVERY[name], tmp_path / "folder", tmp_path)
    before = getattr(folder.resolved(EVERY[name]).config, field)
    other = {"modality": "audio" if before == "image" else "image", "class_token": not before}.get(field, value)
    change(tmp_path / "folder", lambda content: content["model"].update({field: other}))
    assert f"model.{field}" in refused(tmp_path / "folder")


@pytest.mark.parametrize("field", ["library_name", "format", "kind", "classes", "label_names", "model", "data", "window", "model.width",
                                   "data.audio_mean", "model.heads", "tune.loss", "loss.norm_pix", "versions"])  # fmt: skip
def test_a_field_that_lacks_is_named(field: str, copy: Path) -> None:
    *group, name = field.split(".")
    change(copy, lambda content: (content[group[0]] if group else content).pop(name))
    assert field in refused(copy)


def test_damage_of_any_kind_ends_in_the_model_or_a_line(copy: Path) -> None:
    rng, content, want = random.Random(0), (copy / "config.json").read_bytes(), read(copy)  # noqa: S311
    for _ in range(150):
        (copy / "config.json").write_bytes(rng.choice(CHANGES)(content, rng))
        said, found = outcome(copy)
        assert "\n" not in said
        assert found or str(copy) in said
        if found:
            assert_same(found, want)
            assert dataclasses.replace(found.notes, label_names=()) == dataclasses.replace(want.notes, label_names=())


def outcome(path: Path) -> tuple[str, Weights | None]:
    try:
        return "", read(path)
    except AvmaeError as error:
        return str(error), None
