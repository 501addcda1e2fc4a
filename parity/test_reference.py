"""Compares the PyTorch reference with the recorded values of the original, and what no file holds: sizes, start, options."""

# pyright: reportMissingImports=false

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import jax
import numpy as np
import pytest

pytest.importorskip("timm", reason='the reference needs PyTorch and timm: pip install -e ".[parity]"')

import torch
import torch.nn.functional as F
from torch import Tensor

from avmae_jax.config import LossConfig, MaskMode, ModelConfig, OptimConfig
from avmae_jax.models.masking import mask_from_noise, sample_noise
from avmae_jax.train import optim
from parity.golden import load
from parity.recorded.training import ADAM
from parity.reference import CAVMAE, CAVMAEClassifier, Mode
from parity.reference_training import adam, contrastive_loss, pretraining_losses, schedule
from parity.rows import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, Row, assert_all, compare
from parity.test_golden import FILES, FOLDERS

TUNED_FILES = [path for folder in FOLDERS for path in folder.glob("finetune_small.npz")]
SMALL = ModelConfig(depth=12, width=32, heads=4, decoder_depth=2, decoder_width=16, decoder_heads=2, audio_frames=128, image_size=64)
TINY = dataclasses.replace(SMALL, depth=3, decoder_depth=1, mel_bins=64, image_size=32)
# What the known files were recorded with. Of others parity.golden finds it out, which takes half a minute each.
SETTINGS = {
    "pretrain_small": (SMALL, LossConfig()),
    "pretrain_small_nonorm_bidirect": (
        dataclasses.replace(SMALL, learned_positions=True, audio_mask_ratio=0.5, image_mask_ratio=0.8),
        LossConfig(norm_pix=False, bidirectional=True, contrast_weight=0.1),
    ),
}

Arrays = Mapping[str, np.ndarray]


class Pretrained(NamedTuple):
    """A recorded file and the reference with its weights."""

    arrays: Arrays
    model: CAVMAE
    loss: LossConfig
    patch: int

    def run(self, suffix: str = "") -> dict[str, Tensor]:
        """Outputs and losses by their recorded names; `suffix` names the step whose noise is meant."""
        names = ("in.audio", "in.image", f"in.noise_audio{suffix}", f"in.noise_image{suffix}")
        fbank, image, *noise = (torch.from_numpy(self.arrays[name]) for name in names)
        out = self.model(fbank, image, *noise)
        return out._asdict() | pretraining_losses(out, fbank, image, self.loss, patch=self.patch)


class Tuned(NamedTuple):
    """The same for fine-tuning."""

    arrays: Arrays
    model: CAVMAEClassifier


def read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def load_weights(model: torch.nn.Module, arrays: Arrays) -> None:
    """Refuses any name or shape that isn't the official one, and a lack of any."""
    model.load_state_dict({name: torch.from_numpy(value) for name, value in part(arrays, "param.").items()})


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def pretrained(request: pytest.FixtureRequest) -> Pretrained:
    if request.param.stem in SETTINGS:
        config, loss = SETTINGS[request.param.stem]
    else:
        found = load(request.param)
        config, loss = found.config, found.loss
    arrays, model = read(request.param), CAVMAE(config)
    load_weights(model, arrays)
    return Pretrained(arrays, model, loss, config.patch)


@pytest.fixture(scope="module", params=TUNED_FILES, ids=lambda path: path.stem)
def tuned(request: pytest.FixtureRequest) -> Tuned:
    arrays, model = read(request.param), CAVMAEClassifier(SMALL, classes=7)
    load_weights(model, arrays)
    return Tuned(arrays, model)


def rows(ours: Mapping[str, Tensor], recorded: Arrays, tolerance: float) -> Iterator[Row]:
    """Compares all that was recorded; after steps, the keys' part of a qkv bias isn't comparable (see parity.golden)."""
    for name, reference in recorded.items():
        mine = ours[name].detach().numpy()
        if name.startswith("after") and name.endswith(".qkv.bias"):
            mine, reference = (array.reshape(3, -1)[[0, 2]] for array in (mine, reference))
        yield compare(name, mine, reference, tolerance)


def gradients(model: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def training_rows(run: Pretrained) -> Iterator[Row]:
    """Gradients of the first step, the loss of each, the weights after those that the file holds; changes the model."""
    optimizer = adam(run.model.parameters(), ADAM)
    for index in range(max(int(name[len("after")]) for name in run.arrays if name.startswith("after"))):
        loss = run.run(f"_step{index}" if index else "")["loss"]
        yield compare(f"loss_step{index}", loss.detach(), run.arrays[f"out.loss_step{index}"], OUTPUT_TOLERANCE)
        optimizer.zero_grad()
        loss.backward()
        if index == 0:
            ours, recorded = gradients(run.model, "grad."), {name: run.arrays[name] for name in run.arrays if name.startswith("grad.")}
            assert ours.keys() == recorded.keys()
            yield from rows(ours, recorded, GRADIENT_TOLERANCE)
        optimizer.step()
        ours = {f"after{index + 1}.{name}": weight for name, weight in run.model.state_dict().items()}
        yield from rows(ours, {name: run.arrays[name] for name in ours if name in run.arrays}, GRADIENT_TOLERANCE)


@torch.no_grad()
def test_every_intermediate_and_loss_is_the_originals(pretrained: Pretrained) -> None:
    arrays, model = pretrained.arrays, pretrained.model
    ours = pretrained.run() | {
        "feat_audio": model.audio_features(torch.from_numpy(arrays["in.audio"])),
        "feat_image": model.image_features(torch.from_numpy(arrays["in.image"])),
    }
    recorded = {name: value for name, value in part(arrays, "out.").items() if not name.startswith("loss_step")}
    assert_all(rows(ours, recorded, OUTPUT_TOLERANCE), at_least=17)


def test_gradients_and_weights_after_adam_steps_are_the_originals(pretrained: Pretrained) -> None:
    compared = list(training_rows(pretrained._replace(model=copy.deepcopy(pretrained.model))))
    assert_all(compared, at_least=600)
    assert {row.name.split(".")[0] for row in compared} >= {"grad", "after1"}


@pytest.mark.parametrize("mode", get_args(Mode))
def test_logits_losses_and_gradients_of_every_mode_are_the_originals(tuned: Tuned, mode: Mode) -> None:
    arrays, model = tuned.arrays, copy.deepcopy(tuned.model)
    fbank, image, labels = (torch.from_numpy(arrays[f"in.{name}"]) for name in ("audio", "image", "labels"))
    logits = model(fbank, image, mode)
    bce = F.binary_cross_entropy_with_logits(logits, labels)
    ours = {"logits": logits, "bce": bce, "ce": F.cross_entropy(logits, labels)}
    assert_all(rows(ours, {name: arrays[f"out.{name}.{mode}"] for name in ours}, OUTPUT_TOLERANCE), at_least=3)
    bce.backward()
    if recorded := part(arrays, f"grad.{mode}."):  # the file has those of two modes
        assert gradients(model, "").keys() == recorded.keys()
        assert_all(rows(gradients(model, ""), recorded, GRADIENT_TOLERANCE), at_least=150)


@torch.no_grad()
def test_features_of_the_tuned_encoder_are_the_originals(tuned: Tuned) -> None:
    fbank, image = (torch.from_numpy(tuned.arrays[name]) for name in ("in.audio", "in.image"))
    ours = {"audio": tuned.model.audio_features(fbank), "image": tuned.model.image_features(image)}
    assert_all(rows(ours, part(tuned.arrays, "out.feat_"), OUTPUT_TOLERANCE), at_least=2)


def test_the_base_models_have_exactly_the_originals_numbers_of_parameters() -> None:
    def count(weights: Iterator[torch.nn.Parameter]) -> tuple[int, int]:
        sizes = [(weight.numel(), weight.numel() * weight.requires_grad) for weight in weights]
        return sum(size for size, _ in sizes), sum(size for _, size in sizes)

    with torch.device("meta"):
        model, classifier = CAVMAE(ModelConfig()), CAVMAEClassifier(ModelConfig(), classes=527)
    everything, trained = count(model.parameters())
    whole, trained_whole = count(classifier.parameters())
    head, _ = count(classifier.mlp_head.parameters())
    assert [round(number / 1e6, 3) for number in (everything, trained, whole - head, head)] == [191.036, 190.130, 164.500, 0.407]
    assert trained_whole == whole


def test_a_fresh_model_starts_as_the_original_does() -> None:
    torch.manual_seed(0)
    model, recorded = CAVMAE(SMALL), part(read(FOLDERS[0] / "pretrain_small.npz"), "param.")
    for name, weight in model.named_parameters():
        if "pos_embed" in name:
            np.testing.assert_allclose(weight.detach(), recorded[name], atol=1e-6)
        elif "modality" in name or name == "mask_token":
            assert 0.01 < weight.std() < 0.03
        elif "norm" in name:
            assert (weight == float(name.endswith("weight"))).all()
        elif name.endswith("weight"):
            rows_columns = weight.flatten(1).shape
            bound = (6 / sum(rows_columns)) ** 0.5
            assert 0.95 * bound < weight.abs().max() <= bound
        elif "patch_embed" in name:
            bound = (16 * 16 * (3 if "_v" in name else 1)) ** -0.5
            assert 0.7 * bound < weight.abs().max() <= bound
        else:
            assert (weight == 0).all()


def test_every_norm_has_the_originals_epsilon_or_the_configs() -> None:
    def epsilons(config: ModelConfig) -> set[float]:
        with torch.device("meta"):
            models = CAVMAE(config), CAVMAEClassifier(config, classes=2)
        return {module.eps for model in models for module in model.modules() if isinstance(module, torch.nn.LayerNorm)}

    assert epsilons(TINY) == {1e-5}  # 1e-6 would change the recorded values by less than their tolerance
    assert epsilons(dataclasses.replace(TINY, norm_eps=1e-6)) == {1e-6}


@pytest.mark.parametrize("mode", get_args(MaskMode))
def test_masks_are_those_of_jax_also_where_noise_is_tied(mode: str) -> None:
    grid, ratio = (4, 8), 0.6
    noise = np.array(sample_noise(jax.random.key(0), 2, grid, ratio, mode)).round(1)
    mask = mask_from_noise(jax.numpy.asarray(noise), ratio)
    model = CAVMAE(dataclasses.replace(TINY, audio_mask_ratio=ratio))
    out = model(torch.zeros(2, 128, 64), torch.zeros(2, 3, 32, 32), torch.from_numpy(noise), torch.rand(2, 4))
    np.testing.assert_array_equal(out.mask_audio, mask.hidden)
    np.testing.assert_array_equal(out.ids_restore_audio, mask.restore_ids)


@torch.no_grad()
@pytest.mark.parametrize("unchained", [True, False])
def test_only_the_contrastive_pass_can_skip_joint_blocks(unchained: bool) -> None:
    torch.manual_seed(0)
    model = CAVMAE(dataclasses.replace(TINY, joint_depth=2, unchained_contrastive=unchained))
    fbank, image, noise = torch.randn(2, 128, 64), torch.randn(2, 3, 32, 32), (torch.rand(2, 32), torch.rand(2, 4))
    before = *model(fbank, image, *noise)[:3], model.audio_features(fbank)
    first = model.get_parameter("blocks_u.0.mlp.fc2.bias")
    first.copy_(torch.linspace(-1, 1, 32))
    after = *model(fbank, image, *noise)[:3], model.audio_features(fbank)
    same = [torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert same == [False, unchained, unchained, False]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_negatives_of_a_shard_are_those_of_a_smaller_batch(bidirectional: bool) -> None:
    torch.manual_seed(0)
    audio, image, config = torch.randn(6, 8), torch.randn(6, 8), LossConfig(bidirectional=bidirectional)
    parts = [contrastive_loss(audio[rows], image[rows], config) for rows in (slice(3), slice(3, 6))]
    torch.testing.assert_close(torch.stack(contrastive_loss(audio, image, config, groups=2)), torch.tensor(parts).mean(dim=0))
    assert contrastive_loss(audio, image, config)[0] > torch.tensor(parts)[:, 0].mean()


@torch.no_grad()
@pytest.mark.parametrize(("modality", "unused"), [("audio", "image"), ("video", "fbank")])
def test_a_missing_modality_isnt_looked_at_and_both_kinds_of_norms_count(modality: str, unused: str) -> None:
    torch.manual_seed(0)
    model = CAVMAEClassifier(TINY, classes=5)
    inputs = {"fbank": torch.randn(2, 128, 64), "image": torch.randn(2, 3, 32, 32)}
    inputs[unused].fill_(torch.nan)
    alone, missing = (model(**inputs, mode=f"{prefix}{modality}only") for prefix in ("", "missing"))
    torch.testing.assert_close(missing, alone)  # fresh norms are all alike
    model.get_parameter("norm.bias").copy_(torch.linspace(-1, 1, 32))
    assert torch.equal(model(**inputs, mode=f"{modality}only"), alone)
    assert not torch.allclose(model(**inputs, mode=f"missing{modality}only"), alone)


def test_what_the_reference_doesnt_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"modality.*audio"):
        CAVMAE(dataclasses.replace(TINY, modality="audio"))
    with pytest.raises(ValueError, match=r"'both'.*multimodal"):
        CAVMAEClassifier(TINY, 2)(torch.zeros(1, 128, 64), torch.zeros(1, 3, 32, 32), "both")  # pyright: ignore[reportArgumentType]


def test_the_rate_falls_after_the_epochs_of_the_jax_schedule() -> None:
    config = OptimConfig(learning_rate=1.0, decay_start=2, decay_every=3, decay_rate=0.5)
    optimizer = adam([torch.nn.Parameter(torch.zeros(1))], config)
    rates, scheduler = [], schedule(optimizer, config)
    for _ in range(9):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert rates == [np.asarray(optim.learning_rate(config, 1)(epoch)).item() for epoch in range(9)]
