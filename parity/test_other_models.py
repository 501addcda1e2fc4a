"""Compares our models with those of other libraries, with the same weights and inputs; the tests set the epsilon of the norms."""

# pyright: reportMissingImports=false

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason='other libraries are needed here: pip install -e ".[parity]"')
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import avmae_jax
from avmae_jax.config import ModelConfig
from avmae_jax.data import fbank
from avmae_jax.data.frontend import model_inputs
from avmae_jax.models.ast import AST
from avmae_jax.models.decoder import Reconstruction
from avmae_jax.models.mae import MAE
from avmae_jax.models.tokens import join
from avmae_jax.train import losses
from avmae_jax.trees import flatten
from avmae_jax.weights import vit
from avmae_jax.weights.tensor_files import read_tensors
from avmae_jax.weights.vit_names import canonical
from parity.rows import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, assert_all, compare

TRANSFORMERS_EPS = 1e-12  # of the norms of ViTMAE and AST in the transformers library; the original MAE and timm have 1e-6


IMAGE = ModelConfig(
    kind="mae",
    modality="image",
    class_token=True,
    depth=3,
    width=48,
    heads=4,
    decoder_depth=2,
    decoder_width=32,
    decoder_heads=2,
    image_size=64,
)


SOUND = ModelConfig(kind="ast", modality="audio", depth=3, width=48, heads=4, mel_bins=64, audio_frames=96)


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def randomise(model: Any, seed: int = 0) -> Any:
    """Randomises every weight, so that a forgotten norm, bias, token or position shows; matrices keep the size of signals."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            fan_in = weight[0].numel() if weight.ndim in (2, 4) else 25
            weight.copy_(1 + 0.2 * noise if "norm" in name and name.endswith("weight") else noise / fan_in**0.5)
            if name.endswith("decoder_pos_embed"):
                weight[:, 0] = 0  # as published: the decoder has no position for the class token
    return model.eval()


def pictures(size: int, batch: int = 2) -> np.ndarray:
    """Makes normalised images: float32[B, H, W, 3]."""
    return np.random.default_rng(1).standard_normal((batch, size, size, 3)).astype(np.float32)


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


VARIANTS: dict[str, tuple[str, dict[str, Any], ModelConfig]] = {
    "base": ("vit_base_patch16_224.mae", {}, ModelConfig(kind="mae", modality="image", class_token=True, norm_eps=1e-6)),
    "tiny, other sizes": (
        "vit_tiny_patch16_224",
        {"img_size": 48, "depth": 3, "mlp_ratio": 2.0},
        ModelConfig(kind="mae", modality="image", class_token=True, norm_eps=1e-6, size="tiny", depth=3, image_size=48, mlp_ratio=2.0),
    ),
    "patches of 32, no class token": (
        "vit_small_patch32_224",
        {"img_size": 96, "depth": 2, "class_token": False, "global_pool": "avg", "fc_norm": False},
        ModelConfig(kind="mae", modality="image", norm_eps=1e-6, size="small", depth=2, patch=32, image_size=96),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.slow
def test_timms_vit_is_our_tower(variant: tuple[str, dict[str, Any], ModelConfig], request: pytest.FixtureRequest) -> None:
    timm = pytest.importorskip("timm")
    name, options, config = variant
    pretrained = request.config.getoption("--pretrained") and not options
    model = timm.create_model(name, pretrained=pretrained, num_classes=0, **options).eval()
    config = dataclasses.replace(config, decoder_depth=1)
    ours = MAE(config, rngs=nnx.Rngs(0))
    lines = vit.initialise(config, ours, arrays(model if pretrained else randomise(model)))
    assert any(line.startswith("fresh: decoder") for line in lines)  # timm has no decoder
    images = pictures(config.image_size, 1 if name.startswith("vit_base") else 2)
    with torch.no_grad():
        reference = model.forward_features(channels_first(images))
    tokens = join(nnx.jit(MAE.features)(ours, {"image": jnp.asarray(images)}))
    assert_all([compare("tokens", tokens, reference, OUTPUT_TOLERANCE)], 1)


def vit_mae(config: ModelConfig, *, norm_pix: bool = True) -> Any:
    transformers = pytest.importorskip("transformers")
    shape = config.shape
    settings = transformers.ViTMAEConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        image_size=config.image_size,
        decoder_hidden_size=shape.decoder_width,
        decoder_num_hidden_layers=shape.decoder_depth,
        decoder_num_attention_heads=shape.decoder_heads,
        decoder_intermediate_size=4 * shape.decoder_width,
        mask_ratio=config.image_mask_ratio,
        norm_pix_loss=norm_pix,
    )
    assert settings.layer_norm_eps == TRANSFORMERS_EPS
    return randomise(transformers.ViTMAEForPreTraining(settings))


def our_loss(model: MAE, images: jax.Array, noise: jax.Array, norm_pix: bool) -> tuple[jax.Array, Reconstruction]:
    out = model({"image": images}, {"image": noise})
    loss = losses.reconstruction_loss(images, out.predictions["image"], out.masks["image"].hidden, patch=IMAGE.patch, norm_pix=norm_pix)
    return loss, out


MAE_HEADS: Any = {"heads": IMAGE.shape.heads, "decoder_heads": IMAGE.shape.decoder_heads}


def in_facebooks_names(model: Any, tmp_path: Path) -> Path:
    """Writes a file as facebookresearch/mae does: a .pth with the state dict under "model"."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(tensor)) for name, tensor in canonical(arrays(model)).items()}
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "mae.pth")
    return tmp_path / "mae.pth"


def in_transformers_names(model: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.slow
def test_transformers_vit_mae_is_our_image_mae(norm_pix: bool, tmp_path: Path) -> None:
    theirs_model = vit_mae(IMAGE, norm_pix=norm_pix)
    loaded = avmae_jax.load(in_transformers_names(theirs_model, tmp_path), **MAE_HEADS)
    assert loaded.config.model.norm_eps == TRANSFORMERS_EPS
    images, noise = pictures(IMAGE.image_size, 3), np.random.default_rng(2).random((3, 16)).astype(np.float32)
    reference = theirs_model(channels_first(images), noise=torch.from_numpy(noise))
    latent = theirs_model.vit(channels_first(images), noise=torch.from_numpy(noise)).last_hidden_state.detach()
    step = nnx.jit(nnx.value_and_grad(our_loss, has_aux=True), static_argnums=3)
    (loss, out), gradients = step(loaded.module, jnp.asarray(images), jnp.asarray(noise), norm_pix)
    rows = [
        compare("latent", join(out.latent), latent, OUTPUT_TOLERANCE),
        compare("prediction", out.predictions["image"], reference.logits.detach(), OUTPUT_TOLERANCE),
        compare("mask", out.masks["image"].hidden, reference.mask, 0.0),
        compare("restore_ids", out.masks["image"].restore_ids, reference.ids_restore, 0.0),
        compare("loss", loss, reference.loss.detach(), OUTPUT_TOLERANCE),
    ]
    reference.loss.backward()
    # Gradients are converted as weights are, since the conversion is linear. Positions have none there, since they are frozen.
    theirs = {name: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for name, p in theirs_model.named_parameters()}
    for path, gradient in vit.pull(loaded.config.model, loaded.module, theirs).params.items():
        if not path.endswith("positions"):
            rows.append(compare(f"gradient of {path}", flatten(gradients)[path], gradient, GRADIENT_TOLERANCE))
    assert_all(rows, at_least=5 + 5 * 12)


@pytest.mark.parametrize("write", [in_facebooks_names, in_transformers_names])
@pytest.mark.slow
def test_a_file_of_an_image_mae_loads_and_predicts_as_transformers_does(write: Callable[[Any, Path], Path], tmp_path: Path) -> None:
    theirs = vit_mae(IMAGE)
    if write is in_facebooks_names:  # whose models have another epsilon, which no file holds
        for norm in (module for module in theirs.modules() if isinstance(module, torch.nn.LayerNorm)):
            norm.eps = 1e-6
    loaded = avmae_jax.load(write(theirs, tmp_path), **MAE_HEADS)
    assert (loaded.kind, loaded.classes, loaded.config.model.image_size) == ("mae", 0, IMAGE.image_size)
    images, noise = pictures(IMAGE.image_size), np.random.default_rng(2).random((2, 16)).astype(np.float32)
    with torch.no_grad():
        reference = theirs(channels_first(images), noise=torch.from_numpy(noise)).logits
    out = nnx.jit(lambda model, *inputs: model(*inputs))(loaded.module, {"image": jnp.asarray(images)}, {"image": jnp.asarray(noise)})
    assert_all([compare("prediction", out.predictions["image"], reference, OUTPUT_TOLERANCE)], 1)
    with pytest.raises(ValueError, match="classes"):
        loaded.predict(image=np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("write", [in_facebooks_names, in_transformers_names])
def test_an_encoder_without_decoder_is_refused_with_what_to_do(write: Callable[[Any, Path], Path], tmp_path: Path) -> None:
    path = write(vit_mae(IMAGE).vit, tmp_path)
    with pytest.raises(avmae_jax.WeightsError, match=r"--config\.init_from") as caught:
        avmae_jax.load(path, **MAE_HEADS)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_transformers_saves_is_what_it_holds(tmp_path: Path) -> None:
    """Names in its files differ from those in memory."""
    model = vit_mae(IMAGE)
    saved = read_tensors(in_transformers_names(model, tmp_path))
    assert saved.keys() != model.state_dict().keys()
    one, other = canonical(saved), canonical(arrays(model))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, other[name])


def transformers_ast(stride: int = 10, eps: float = TRANSFORMERS_EPS) -> Any:
    transformers = pytest.importorskip("transformers")
    shape = SOUND.shape
    settings = transformers.ASTConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        max_length=SOUND.audio_frames,
        num_mel_bins=SOUND.mel_bins,
        frequency_stride=stride,
        time_stride=stride,
        num_labels=7,
    )
    assert settings.layer_norm_eps == TRANSFORMERS_EPS
    settings.layer_norm_eps = eps
    return randomise(transformers.ASTForAudioClassification(settings))


def ast_steps(model: AST, fbank: jax.Array) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """Returns the input of the first block, the output of each block, the tokens after the last norm, and the logits."""
    states = [join(model.tower.embed(fbank))]
    for block in model.tower.blocks:
        states.append(block(states[-1]))
    return states, join(model.separate({"audio": fbank})), model({"audio": fbank})


def log_mels() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((2, SOUND.audio_frames, SOUND.mel_bins)).astype(np.float32)


@pytest.mark.parametrize("stride", [10, 16])
@pytest.mark.slow
def test_transformers_ast_is_ours(stride: int) -> None:
    theirs, config, fbank = transformers_ast(stride), dataclasses.replace(SOUND, norm_eps=TRANSFORMERS_EPS), log_mels()
    ours = AST(config, 7, stride=stride, rngs=nnx.Rngs(0))
    assert not [line for line in vit.initialise(config, ours, arrays(theirs)) if line.startswith(("fresh", "left out"))]
    with torch.no_grad():
        inside = theirs.audio_spectrogram_transformer(torch.from_numpy(fbank), output_hidden_states=True)
        logits = theirs(torch.from_numpy(fbank)).logits
    states, tokens, ours_logits = nnx.jit(ast_steps)(ours, jnp.asarray(fbank))
    pairs = enumerate(zip(states, inside.hidden_states, strict=True))
    rows = [compare(f"hidden state {i}", one, other, OUTPUT_TOLERANCE) for i, (one, other) in pairs]
    rows += [
        compare("tokens", tokens, inside.last_hidden_state, OUTPUT_TOLERANCE),
        compare("logits", ours_logits, logits, OUTPUT_TOLERANCE),
    ]
    assert_all(rows, at_least=6)


def in_original_names(model: Any, tmp_path: Path) -> Path:
    """Writes a file as the original AST does: timm's names after "v.", with the heads of the DeiT inside, which it never uses."""
    own = {name if name.startswith("mlp_head") else f"v.{name}": tensor for name, tensor in canonical(arrays(model)).items()}
    own |= {f"v.{head}.{part}": np.ones(3, np.float32) for head in ("head", "head_dist") for part in ("weight", "bias")}
    torch.save({f"module.{name}": torch.from_numpy(np.ascontiguousarray(tensor)) for name, tensor in own.items()}, tmp_path / "ast.pth")
    return tmp_path / "ast.pth"


AST_SIZES: Any = {"heads": SOUND.shape.heads, "mel_bins": SOUND.mel_bins}


@pytest.mark.parametrize(("write", "eps"), [(in_original_names, 1e-6), (in_transformers_names, TRANSFORMERS_EPS)])
@pytest.mark.slow
def test_a_file_of_an_ast_loads_and_predicts_as_transformers_does(write: Callable[[Any, Path], Path], eps: float, tmp_path: Path) -> None:
    theirs = transformers_ast(eps=eps)
    loaded = avmae_jax.load(write(theirs, tmp_path), **AST_SIZES)
    assert (loaded.kind, loaded.classes, loaded.config.model.audio_frames) == ("ast", 7, SOUND.audio_frames)
    samples = (np.random.default_rng(4).standard_normal(fbank.num_samples(SOUND.audio_frames)) * 3000).astype(np.int16)
    batch = {"waveform": jnp.asarray(samples)[None], "samples": jnp.array([len(samples)])}
    inputs = np.concatenate([log_mels(), np.asarray(model_inputs(batch, loaded.config)["audio"])])
    with torch.no_grad():
        logits = theirs(torch.from_numpy(inputs)).logits
    ours = nnx.jit(lambda model, inputs: model(inputs))(loaded.module, {"audio": jnp.asarray(inputs)})
    predicted = loaded.predict(audio=samples, top=7)  # of the waveform: as many independent probabilities as classes
    rows = [
        compare("logits", ours, logits, OUTPUT_TOLERANCE),
        compare("probabilities", predicted.probabilities, torch.sigmoid(logits[-1]), OUTPUT_TOLERANCE),
    ]
    assert_all(rows, 2)
    assert (predicted.seen, str(predicted.mode), predicted.match) == ("audio", "audioonly", None)
