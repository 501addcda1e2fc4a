"""Compares CAV-MAE Sync, the dual path and the classifiers with the PyTorch reference at several sizes and options, with fresh weights.

What the reference computes is recorded and compared by the code that compares files of the originals: outputs, losses, features, every
gradient, also that there is none, and the weights after Adam steps.
"""

# pyright: reportMissingImports=false

from typing import Any

import pytest

pytest.importorskip("timm", reason='the reference needs PyTorch and timm: pip install -e ".[parity]"')

import numpy as np

from avmae_jax.config import LossConfig, ModelConfig
from parity.golden import of
from parity.recordings_sync import record_classifiers, record_sync
from parity.rows import assert_all
from parity.side_by_side import small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unpolished", "promoting")]

# Option combinations such that each option stands once alone and once among others.
CASES: dict[str, tuple[ModelConfig, LossConfig]] = {
    "class tokens alone": (small(class_token=True), LossConfig(contrast_weight=0.1)),
    "registers alone, several joint blocks, all of the image seen": (
        small(depth=4, joint_depth=2, registers=3, unchained_contrastive=True, image_mask_ratio=0.0, learned_positions=True),
        LossConfig(contrast_weight=0.05, norm_pix=False),
    ),
    "blocks for the contrast, global and local": (
        small(class_token=True, registers=1, contrast_depth=2, width=24, heads=3, audio_mask_ratio=0.5),
        LossConfig(contrast_weight=0.3, global_local=True, mae_weight=2.0),
    ),
    "blocks for the contrast without class tokens": (
        small(contrast_depth=1, patch=8, image_size=24, mel_bins=24, audio_frames=40),
        LossConfig(bidirectional=True),
    ),
    "the dual path": (
        small(class_token=True, registers=3, contrast_mask_ratio=0.3),
        LossConfig(contrast_weight=0.1, contrast_pass=True, bidirectional=True, norm_pix=False),
    ),
    "the dual path, several joint blocks": (
        small(depth=4, joint_depth=3, class_token=True, contrast_depth=2, unchained_contrastive=True, contrast_mask_ratio=0.5),
        LossConfig(contrast_weight=0.02, contrast_pass=True, global_local=True),
    ),
}


@pytest.mark.parametrize(("config", "loss"), CASES.values(), ids=list(CASES))
def test_outputs_losses_gradients_and_steps_are_the_same(config: ModelConfig, loss: LossConfig) -> None:
    recorded: Any = of(record_sync(config, loss))
    found = recorded.config
    fields = ("shape", "joint_depth", "class_token", "registers", "contrast_depth", "audio_frames", "image_size", "learned_positions")
    assert {name: getattr(found, name) for name in fields} == {name: getattr(config, name) for name in fields}
    assert (found.joint_depth == 1) or (found.unchained_contrastive == config.unchained_contrastive)
    assert recorded.loss == loss
    assert_all(recorded.rows(), at_least=180)


@pytest.mark.parametrize(
    "config",
    [
        small(class_token=True, registers=3, heads=2),
        small(class_token=True, depth=4, joint_depth=2, width=24, heads=3, pair_depth=1),
    ],
    ids=["registers", "several joint blocks"],
)
def test_classifiers_of_every_mode_are_the_same(config: ModelConfig) -> None:
    recorded: Any = of(record_classifiers(config, 5))
    assert (recorded.config.shape.heads, recorded.config.registers) == (config.shape.heads, config.registers)
    assert [(each.name, each.config.pair_pool, each.config.pair_depth) for each in recorded.tuned] == [
        ("multimodal", "late", config.pair_depth),
        ("audioonly", "mean", config.pair_depth),
        ("videoonly", "mean", config.pair_depth),
        ("videoonly_none", "global", 0),
    ]
    rows = recorded.rows()
    assert_all(rows, at_least=200)
    assert "grad.multimodal.blocks_u.0.attn.qkv.weight (none)" in {row.name for row in rows}


def test_registers_of_the_other_modality_are_noticed() -> None:
    arrays = record_sync(small(class_token=True, registers=2), LossConfig(), steps=1)
    arrays["param.register_tokens"] = np.roll(arrays["param.register_tokens"], 2, axis=0)
    failed = {row.name for row in of(arrays).output_rows() if not row.ok}
    assert {"out.latent", "out.cls_audio", "out.feat_image"} <= failed
