"""Tests that a run starts from weights of any kind, and what it leaves fresh or refuses."""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from avmae_jax.config import ModelConfig
from avmae_jax.errors import WeightsError
from avmae_jax.models import registry
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.sync import Sync
from avmae_jax.models.sync_classifier import SyncClassifier
from avmae_jax.weights import io, vit
from avmae_jax.weights.init_from import initialise_from, take
from tests.support import made
from tests.weights.files import params_of
from tests.weights.folders import EVERY, SYNC
from tests.weights.small_vit import PATCH, config, image_mae


@pytest.mark.parametrize("name", ["image_mae.safetensors", "cavmae.safetensors", "run"])
@pytest.mark.slow
def test_initialise_from_tells_files_apart(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, source = (CAVMAE(config(), rngs=nnx.Rngs(seed)) for seed in (0, 1))
    before, path = params_of(model), tmp_path / name
    if name.startswith("image"):
        save_file(image_mae(), path)
    else:
        io.write(io.Weights(config(), 0, params_of(source)), path)
    with caplog.at_level(logging.INFO, logger="absl"):
        initialise_from(config(), model, path)
    assert str(path) in caplog.text
    after = params_of(model)
    expected = before | vit.pull(config(), model, image_mae()).params if name.startswith("image") else params_of(source)
    for place, value in after.items():
        np.testing.assert_array_equal(value, expected[place])
    assert jax.tree.leaves(nnx.state(model, nnx.Param))[0].dtype == jnp.float32


def test_a_classifier_takes_a_pretrained_encoder_and_heads_of_other_classes_stay_fresh() -> None:
    pretrained = params_of(CAVMAE(config(), rngs=nnx.Rngs(1)))
    for given, said in (
        (pretrained, ["left out: decoder", "fresh: head, missing"]),
        (params_of(CAVMAEClassifier(config(), 7, rngs=nnx.Rngs(2))), ["fresh: head, of other classes"]),
    ):
        model = CAVMAEClassifier(config(), 5, rngs=nnx.Rngs(0))
        before = params_of(model)
        for line, begin in zip(take(model, given), ["all of encoder", *said], strict=True):
            assert line.startswith(begin)
        for place, value in params_of(model).items():
            np.testing.assert_array_equal(value, (before if place.startswith("head") else given)[place])


def test_another_encoder_is_refused_with_every_reason(tmp_path: Path) -> None:
    given = params_of(CAVMAE(config(image_size=12), rngs=nnx.Rngs(1)))
    given["encoder.blocks.9.bias"] = given.pop("encoder.norm.main.bias")
    model = CAVMAE(config(), rngs=nnx.Rngs(0))
    before = params_of(model)
    with pytest.raises(WeightsError) as caught:
        take(model, given)
    for part in (r"missing: encoder\.norm\.main\.bias", r"unexpected: encoder\.blocks\.9\.bias",
                 r"misshapen: encoder\.image\.positions.*\(9, 8\).*\(4, 8\)"):  # fmt: skip
        assert re.search(part, str(caught.value))
    for place, value in params_of(model).items():
        np.testing.assert_array_equal(value, before[place])
    io.write(made(config(modality="image")), tmp_path / "run")
    with pytest.raises(WeightsError, match=r"run: .*model\.modality.*image.*both"):
        initialise_from(config(), model, tmp_path / "run")


def test_a_model_of_another_size_is_one_line_with_the_options_that_help(tmp_path: Path) -> None:
    io.write(made(config(width=192, heads=3)), tmp_path / "run")  # as wide as size "tiny"
    model = CAVMAE(config(), rngs=nnx.Rngs(0))
    with pytest.raises(WeightsError, match=r"run: .*model\.width is 192.*--config\.model\.width=192 --config\.model\.heads=3") as caught:
        initialise_from(config(), model, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing\.pth"):
        initialise_from(config(), CAVMAE(config(), rngs=nnx.Rngs(0)), tmp_path / "missing.pth")


def test_a_head_with_another_pooling_stays_fresh() -> None:
    given = params_of(CAVMAEClassifier(config(), 5, rngs=nnx.Rngs(2)))
    for head_pool in ("mean_std", "attentive"):
        model = CAVMAEClassifier(config(head_pool=head_pool), 5, rngs=nnx.Rngs(0))
        before = params_of(model)
        assert [line.split(",")[0] for line in take(model, given)] == ["all of encoder", "fresh: head"]
        for place, value in params_of(model).items():
            np.testing.assert_array_equal(value, (before if place.startswith("head") else given)[place])
    del given["head.linear.bias"]
    with pytest.raises(WeightsError, match=r"missing: head\.linear\.bias"):
        take(CAVMAEClassifier(config(), 5, rngs=nnx.Rngs(0)), given)


def pairs(**changed: Any) -> ModelConfig:
    return dataclasses.replace(config(), kind="sync", class_token=True, registers=2, **changed)


def test_a_model_of_pairs_takes_what_a_cavmae_has_and_keeps_positions_of_its_own_window(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, wanted = tmp_path / "cavmae.safetensors", pairs(audio_frames=config().audio_frames - PATCH)
    given = params_of(CAVMAE(config(), rngs=nnx.Rngs(1)))
    io.write(io.Weights(config(), 0, given), path)
    model = Sync(wanted, rngs=nnx.Rngs(0))
    before = params_of(model)
    with caplog.at_level(logging.INFO, logger="absl"):
        initialise_from(wanted, model, path)
    for words in ("fresh: class tokens", "fresh: registers", "fresh: audio positions"):
        assert words in caplog.text
    fresh = ("prefix", "registers", "audio.positions")
    for place, value in params_of(model).items():
        np.testing.assert_array_equal(value, (before if place.endswith(fresh) else given)[place])


def test_a_model_of_pairs_gives_a_classifier_its_encoder_and_refuses_another_number_of_registers() -> None:
    given = params_of(Sync(pairs(), rngs=nnx.Rngs(1)))
    model = SyncClassifier(dataclasses.replace(pairs(), kind="sync_classifier"), 5, rngs=nnx.Rngs(0))
    before = params_of(model)
    assert take(model, given)[1:] == ["left out: decoder, which this model doesn't have", "fresh: head, missing in the file"]
    for place, value in params_of(model).items():
        np.testing.assert_array_equal(value, (before if place.startswith("head") else given)[place])
    with pytest.raises(WeightsError, match=r"encoder\.audio\.registers is \(2, \d+\), the model's is \(3, \d+\)"):
        take(Sync(dataclasses.replace(pairs(), registers=3), rngs=nnx.Rngs(0)), given)


def test_an_image_mae_leaves_tokens_of_pairs_fresh() -> None:
    model = Sync(pairs(contrast_depth=1), rngs=nnx.Rngs(0))
    before = params_of(model)
    vit.initialise(pairs(contrast_depth=1), model, image_mae())
    after = params_of(model)
    assert not np.array_equal(after["encoder.image.patch_embed.kernel"], before["encoder.image.patch_embed.kernel"])
    for place in [name for name in before if name.endswith(("prefix", "registers")) or name.startswith("encoder.contrast.")]:
        np.testing.assert_array_equal(after[place], before[place])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "cavmae", "class_token": False, "registers": 0, "clip_frames": 0, "window_rate": 100.0},
         r"3 registers.*model\.kind is 'cavmae'.*--config\.model\.kind=sync"),
        ({"registers": 5}, r"model\.registers is 3, this one's is 5.*--config\.model\.registers=3"),
        ({"class_token": False}, r"model\.class_token is True, this one's is False"),
    ],
)  # fmt: skip
def test_a_model_of_pairs_is_no_other_model_s_beginning(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    io.write(EVERY["sync"], tmp_path / "sync.safetensors")
    wanted = dataclasses.replace(SYNC, **changed)
    with pytest.raises(WeightsError, match=said) as caught:
        initialise_from(wanted, registry.build(wanted, rngs=nnx.Rngs(0)), tmp_path / "sync.safetensors")
    assert "\n" not in str(caught.value)
