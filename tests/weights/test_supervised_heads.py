"""Tests that a pretrained classifier's head is left out by name, and its encoder taken."""

import numpy as np
import pytest

from tests.weights.small_vit import WIDTH, Tensors, image_mae, pull


def supervised(head: str) -> Tensors:
    """Makes the encoder of an MAE under a classification head, as timm, DeiT, the MAE's fine-tuning and transformers name it."""
    tensors = {name: tensor for name, tensor in image_mae().items() if not name.startswith(("decoder", "mask"))}
    tensors |= {f"{head}.weight": np.ones((7, WIDTH), np.float32), f"{head}.bias": np.zeros(7, np.float32)}
    if head == "fc_norm":
        tensors |= {"head.weight": np.ones((7, WIDTH), np.float32), "fc_norm.weight": np.ones(WIDTH, np.float32)}
        del tensors["norm.weight"], tensors["norm.bias"]
    return tensors


@pytest.mark.parametrize("head", ["head", "head_dist", "fc_norm", "classifier", "pooler.dense"])
@pytest.mark.parametrize(("kind", "classes"), [("cavmae", 0), ("cavmae_classifier", 7)])
def test_a_supervised_head_is_left_out_by_name(head: str, kind: str, classes: int) -> None:
    pulled = pull(supervised(head), kind, classes=classes)
    (line,) = [line for line in pulled.lines if line.startswith("left out: ")]
    assert head in line
    np.testing.assert_array_equal(pulled.params["encoder.image.patch_embed.bias"], image_mae()["patch_embed.proj.bias"])
    assert {f"encoder.norm.{stream}.scale" for stream in ("main", "audio", "image")} <= {*pulled.fresh} or head != "fc_norm"
    assert (head == "fc_norm") == any("encoder.norm.main.scale stays fresh" in line for line in pulled.lines)
