"""Tests that names of other libraries mean the same tensors."""

import re

import numpy as np
import pytest

from avmae_jax.errors import WeightsError
from avmae_jax.weights.vit_names import canonical
from tests.weights.small_vit import Tensors, audio_transformer, image_mae, pull

NEW = {"attn.q": "attention.q_proj", "attn.k": "attention.k_proj", "attn.v": "attention.v_proj", "attn.proj": "attention.o_proj",
       "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}  # fmt: skip


OLD = {"attn.q": "attention.attention.query", "attn.k": "attention.attention.key", "attn.v": "attention.attention.value",
       "attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}  # fmt: skip


OUTSIDE = {"cls_token": "embeddings.cls_token", "dist_token": "embeddings.distillation_token", "norm": "layernorm",
           "pos_embed": "embeddings.position_embeddings", "patch_embed.proj": "embeddings.patch_embeddings.projection"}  # fmt: skip


HEAD = {"mlp_head.0": "classifier.layernorm", "mlp_head.1": "classifier.dense"}


STYLES = {
    "in memory": ("layers", "decoder_layers", NEW),
    "on the hub": ("encoder.layer", "decoder_layers", OLD),
    "saved by version 5": ("encoder.layer", "decoder_encoder.layer", OLD),
}


def as_transformers(tensors: Tensors, stem: str, style: str) -> Tensors:
    """Tensors in timm's layout under the transformers library's names."""
    stack, decoder_stack, inside = STYLES[style]
    inside = inside | {"norm1": "layernorm_before", "norm2": "layernorm_after"}
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".") if name.endswith(("weight", "bias")) else (name, "", "")
        if found := re.fullmatch(r"(decoder_)?blocks\.(\d+)\.(.+)", layer):
            place = f"decoder.{decoder_stack}.{found[2]}" if found[1] else f"{stem}{stack}.{found[2]}"
            fused = found[3] == "attn.qkv"
            parts = {f"attn.{part}": value for part, value in zip("qkv", np.split(tensor, 3), strict=True)} if fused else {found[3]: tensor}
            renamed |= {f"{place}.{inside[part]}.{kind}": value for part, value in parts.items()}
            continue
        outside = HEAD.get(layer) or (stem + OUTSIDE[layer] if layer in OUTSIDE else f"decoder.{layer}")
        renamed[f"{outside}.{kind}" if kind else outside] = tensor
    return renamed


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("stem", "tensors"), [("vit.", image_mae()), ("audio_spectrogram_transformer.", audio_transformer())])
def test_names_of_transformers_mean_the_same(style: str, stem: str, tensors: Tensors) -> None:
    got = canonical(as_transformers(tensors, stem, style))
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(got[name], tensor)
    assert canonical(tensors).keys() == tensors.keys()


def test_an_encoder_alone_and_a_lacking_key_are_understood() -> None:
    encoder = {name: tensor for name, tensor in image_mae().items() if not name.startswith(("decoder", "mask"))}
    renamed = as_transformers(encoder, "", "saved by version 5")
    assert canonical(renamed).keys() == encoder.keys()
    del renamed["encoder.layer.0.attention.attention.key.bias"]
    with pytest.raises(WeightsError, match=r"missing: blocks\.0\.attn\.qkv\.bias\n.*not used: blocks\.0\.attn\.q\.bias"):
        pull(renamed, "mae", modality="image")
