"""Compares the PyTorch reference of CAV-MAE Sync, its classifier and the dual path with the recorded values of the originals."""

# pyright: reportMissingImports=false

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pytest

pytest.importorskip("timm", reason='the reference needs PyTorch and timm: pip install -e ".[parity]"')

import torch
import torch.nn.functional as F
from torch import Tensor

from avmae_jax.config import LossConfig, ModelConfig
from parity.recorded.arrays import part, read
from parity.recorded.training import ADAM
from parity.reference_sync import MARKS, PairMode, Sync, SyncClassifier, compared_vectors, pretraining_losses, token_scores
from parity.reference_training import adam
from parity.rows import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, assert_all, compare
from parity.test_golden import files

SMALL = ModelConfig(
    depth=12, width=24, heads=3, decoder_depth=2, decoder_width=16, decoder_heads=2, audio_frames=96, image_size=64, class_token=True
)
VARIANT = dataclasses.replace(
    SMALL,
    audio_frames=112,
    image_size=48,
    registers=4,
    contrast_depth=2,
    learned_positions=True,
    audio_mask_ratio=0.5,
    image_mask_ratio=0.8,
)
# What the known files were recorded with; parity.golden finds it out.
SETTINGS: dict[str, tuple[ModelConfig, LossConfig]] = {
    "sync_pretrain_small": (dataclasses.replace(SMALL, width=32, heads=4, registers=8), LossConfig(contrast_weight=0.1)),
    "sync_pretrain_small_variant": (VARIANT, LossConfig(contrast_weight=0.05, norm_pix=False)),
    "tgdp_pretrain_small": (
        dataclasses.replace(SMALL, registers=8),
        LossConfig(contrast_weight=0.1, norm_pix=False, bidirectional=True),
    ),
}


class Recorded(NamedTuple):
    """A recorded file and the reference with its weights."""

    arrays: Mapping[str, np.ndarray]
    model: Sync
    loss: LossConfig

    def inputs(self, suffix: str = "") -> list[Tensor]:
        names = ("in.audio", "in.image", f"in.noise_audio{suffix}", f"in.noise_image{suffix}")
        return [torch.from_numpy(self.arrays[name]) for name in names]

    def run(self, suffix: str = "") -> dict[str, Tensor]:
        """Outputs and losses by their recorded names; `suffix` names the step whose noise is meant."""
        inputs = self.inputs(suffix)
        out = self.model(*inputs)
        found = {name: value for name, value in out._asdict().items() if value is not None}
        compared = compared_vectors(out, global_local="out.loss_contrast_local_weighted" in self.arrays)
        if "in.noise_audio_contrast" in self.arrays:
            second = self.model(*self.inputs("_contrast"), ratio=0.5)
            found |= {f"{name}_contrast": value for name, value in second._asdict().items() if value is not None}
            compared = compared_vectors(second)
        losses = pretraining_losses(out, (inputs[0], inputs[1]), self.loss, patch=16, compared=compared)
        return found | losses


def with_tensors(model: torch.nn.Module, *states: Mapping[str, np.ndarray]) -> None:
    """Refuses any name or shape that isn't the official one, and a lack of any."""
    model.load_state_dict({name: torch.from_numpy(value) for state in states for name, value in state.items()})


@pytest.fixture(
    params=[path for path in files("sync_pretrain*.npz") + files("tgdp*.npz") if path.stem in SETTINGS], ids=lambda path: path.stem
)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    arrays, (config, loss) = read(request.param), SETTINGS[request.param.stem]
    model = Sync(config)
    with_tensors(model, part(arrays, "param."))
    return Recorded(arrays, model, loss)


def test_outputs_losses_gradients_and_steps_are_the_originals(recorded: Recorded) -> None:
    arrays, model = recorded.arrays, recorded.model
    optimizer, rows = adam(model.parameters(), ADAM), []
    for step, suffix in enumerate(["", "_step2", "_step3"]):
        if f"in.noise_audio{suffix}" not in arrays:
            break
        found = recorded.run(suffix)
        if not step:
            names = [name for name in found if f"out.{name}" in arrays]
            rows += [compare(name, found[name].detach(), arrays[f"out.{name}"], OUTPUT_TOLERANCE) for name in names]
            assert len(names) >= 16
        else:
            rows.append(compare(f"loss{suffix}", found["loss"].detach(), arrays[f"out.loss{suffix}"], OUTPUT_TOLERANCE))
        optimizer.zero_grad()
        found["loss"].backward()
        if not step:
            ours = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
            assert ours.keys() == part(arrays, "grad.").keys()
            rows += [compare(f"grad.{name}", ours[name], tensor, GRADIENT_TOLERANCE) for name, tensor in part(arrays, "grad.").items()]
        optimizer.step()
    state = model.state_dict()
    for name, tensor in part(arrays, "after3.").items():
        mine = state[name].numpy()
        if name.endswith(".qkv.bias"):  # parity/golden.py says why
            mine, tensor = mine.reshape(3, -1)[[0, 2]], tensor.reshape(3, -1)[[0, 2]]
        rows.append(compare(f"after3.{name}", mine, tensor, GRADIENT_TOLERANCE))
    assert_all(rows, at_least=300)


@torch.no_grad()
def test_features_and_the_teachers_attention_are_the_originals(recorded: Recorded) -> None:
    arrays, model = recorded.arrays, recorded.model
    if "in.clips_audio" in arrays:
        clips = [torch.from_numpy(arrays[f"in.clips_{modality}"]).float() for modality in ("audio", "image")]
        features = model.features(*(clip.flatten(0, 1) for clip in clips))
        rows = []
        for modality, tokens, clip in zip(("audio", "image"), features, clips, strict=True):
            vectors = F.normalize(tokens[:, 0], dim=-1).reshape(*clip.shape[:2], -1)
            rows.append(compare(f"feat_{modality}", vectors, arrays[f"out.feat_{modality}"], OUTPUT_TOLERANCE))
            rows.append(compare("tokens", tokens[:2, 1:], arrays[f"out.feat_{modality}_tokens"], OUTPUT_TOLERANCE))
        assert_all(rows, at_least=4)
        return
    fbank, image, *_ = recorded.inputs()
    rows = []
    embedded = model.embed_audio(fbank), model.embed_image(image)
    for modality, mark, patches in zip(("audio", "image"), MARKS, embedded, strict=True):
        order = torch.from_numpy(arrays[f"in.noise_{modality}_teacher"]).argsort(dim=1)
        shuffled = patches.gather(1, order[..., None].expand_as(patches))
        attention = model.attention(model.separate(shuffled, mark), mark)
        scores = token_scores(model.attention(model.separate(patches, mark), mark))
        rows += [
            compare("attention", attention, arrays[f"out.teacher_attention_{modality}"], OUTPUT_TOLERANCE),
            compare("score", scores, arrays[f"out.teacher_score_{modality}"], OUTPUT_TOLERANCE),
            compare("rank", scores.argsort(dim=1, descending=True), arrays[f"out.teacher_rank_{modality}"], 0.0),
        ]
    assert_all(rows, at_least=6)


@pytest.mark.parametrize("path", [path for path in files("sync_finetune*.npz") if path.stem == "sync_finetune_small"])
@pytest.mark.parametrize("mode", get_args(PairMode))
def test_the_classifiers_are_the_originals(path: Path, mode: PairMode) -> None:
    arrays = read(path)
    config = dataclasses.replace(SMALL, image_size=48, registers=4)
    fbank, image, labels = (torch.from_numpy(arrays[f"in.{name}"]).float() for name in ("audio", "image", "labels"))
    model = SyncClassifier(config, 7, mode, heads=3)
    with_tensors(model, part(arrays, "param."), part(arrays, f"param_{mode}."))
    logits = model(fbank, image)
    bce = F.binary_cross_entropy_with_logits(logits, labels)
    bce.backward()
    ours, theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, part(arrays, f"grad.{mode}.")
    assert ours.keys() == theirs.keys()
    rows = [compare(f"grad.{name}", ours[name], tensor, GRADIENT_TOLERANCE) for name, tensor in theirs.items()]
    rows.append(compare("logits", logits.detach(), arrays[f"out.{mode}.logits"], OUTPUT_TOLERANCE))
    rows.append(compare("bce", bce.detach(), arrays[f"out.{mode}.bce"], OUTPUT_TOLERANCE))
    assert_all(rows, at_least=150)
    if mode != "multimodal":
        single = SyncClassifier(dataclasses.replace(config, pair_depth=0), 7, mode, heads=3)
        with_tensors(single, part(arrays, "param."), part(arrays, f"param_{mode}_none."))
        assert_all([compare("logits", single(fbank, image).detach(), arrays[f"out.{mode}_none.logits"], OUTPUT_TOLERANCE)], at_least=1)
