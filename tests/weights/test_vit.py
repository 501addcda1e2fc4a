"""Which tensor of a transformer of one modality each parameter is taken from, value by value, and what is refused."""

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

from avmae_jax.config import Config, ModelConfig
from avmae_jax.errors import WeightsError
from avmae_jax.models.ast import AST
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.patches import sincos_positions
from avmae_jax.trees import flatten
from avmae_jax.weights import io, vit
from avmae_jax.weights.build import described
from avmae_jax.weights.init_from import initialise_from, take
from avmae_jax.weights.vit_config import identify
from avmae_jax.weights.vit_names import canonical
from tests.support import TINY, apply, made

DEPTH, WIDTH, DECODER_WIDTH, PATCH, IMAGE = 3, 8, 4, 4, 8
SIZES: dict[str, Any] = {
    "depth": DEPTH, "width": WIDTH, "heads": 2, "mlp_ratio": 2.0, "decoder_depth": 2, "decoder_width": DECODER_WIDTH, "decoder_heads": 1,
    "patch": PATCH, "image_size": IMAGE, "mel_bins": 8, "audio_frames": 12,
}  # fmt: skip
Tensors = dict[str, np.ndarray]


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**(SIZES | changes))


def block(name: str, width: int, rng: np.random.Generator) -> Tensors:
    shapes = {
        "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,),
        "mlp.fc1": (2 * width, width), "mlp.fc2": (width, 2 * width),
    }  # fmt: skip
    io = {f"{name}.{layer}.weight": rng.standard_normal(shape) for layer, shape in shapes.items()}
    return io | {f"{name}.{layer}.bias": rng.standard_normal(shape[0]) for layer, shape in shapes.items()}


def image_mae(*, side: int = IMAGE // PATCH) -> Tensors:
    """Made-up weights as facebookresearch/mae names them."""
    rng = np.random.default_rng(0)
    pixels = 3 * PATCH**2
    shapes = {
        "cls_token": (1, 1, WIDTH), "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,), "norm.bias": (WIDTH,), "mask_token": (1, 1, DECODER_WIDTH),
        "decoder_embed.weight": (DECODER_WIDTH, WIDTH), "decoder_embed.bias": (DECODER_WIDTH,),
        "decoder_norm.weight": (DECODER_WIDTH,), "decoder_norm.bias": (DECODER_WIDTH,),
        "decoder_pred.weight": (pixels, DECODER_WIDTH), "decoder_pred.bias": (pixels,),
    }  # fmt: skip
    tensors = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for number in range(DEPTH):
        tensors |= block(f"blocks.{number}", WIDTH, rng)
    for number in range(2):
        tensors |= block(f"decoder_blocks.{number}", DECODER_WIDTH, rng)
    for name, width in (("pos_embed", WIDTH), ("decoder_pos_embed", DECODER_WIDTH)):
        tensors[name] = np.concatenate([np.zeros((1, width)), sincos_positions((side, side), width)])[None]
    tensors["pos_embed"][0, 0] = np.arange(WIDTH)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def audio_transformer(classes: int = 5) -> Tensors:
    """Made-up weights of an AST with patches every second pixel: 3 x 5 of them."""
    rng = np.random.default_rng(1)
    shapes = {
        "cls_token": (1, 1, WIDTH), "dist_token": (1, 1, WIDTH), "pos_embed": (1, 2 + 15, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 1, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,), "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,), "mlp_head.0.weight": (WIDTH,), "mlp_head.0.bias": (WIDTH,), "mlp_head.1.weight": (classes, WIDTH),
        "mlp_head.1.bias": (classes,),
    }  # fmt: skip
    tensors = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for number in range(DEPTH):
        tensors |= block(f"blocks.{number}", WIDTH, rng)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def pull(tensors: Tensors, kind: str = "cavmae", *, classes: int = 0, **changes: Any) -> vit.Pulled:
    """Returns what a model of this kind takes from a file; only its shapes are needed."""
    sizes = config(kind=kind, **changes)
    return vit.pull(sizes, described(sizes, classes), tensors)


def params_of(model: nnx.Module) -> Tensors:
    return {path: np.asarray(value) for path, value in flatten(nnx.state(model, nnx.Param)).items()}


def plain(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A torch linear weight or bias as ours."""
    return (tensor.T if tensor.ndim == 2 else tensor).reshape(shape)


IN_BLOCK = {
    "norm1.main.scale": "norm1.weight", "norm1.main.bias": "norm1.bias", "norm2.main.scale": "norm2.weight",
    "attn.qkv.kernel": "attn.qkv.weight", "attn.qkv.bias": "attn.qkv.bias", "attn.proj.kernel": "attn.proj.weight",
    "mlp.fc1.kernel": "mlp.fc1.weight", "mlp.fc2.bias": "mlp.fc2.bias",
}  # fmt: skip


def assert_block(params: Tensors, ours: str, tensors: Tensors, theirs: str, streams: tuple[str, ...] = ("main",)) -> None:
    for path, name in IN_BLOCK.items():
        for stream in streams:
            value = params[f"{ours}.{path.replace('main', stream)}"]
            np.testing.assert_array_equal(value, plain(tensors[f"{theirs}.{name}"], value.shape))


# --- CAV-MAE from an image MAE ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [1, 2, 3])
def test_cavmae_starts_from_an_image_mae_as_the_paper_says(joint: int) -> None:
    tensors = image_mae()
    params, fresh, _ = pull(tensors, joint_depth=joint)
    separate = DEPTH - joint
    for number in range(separate):
        for modality in ("audio", "image"):
            assert_block(params, f"encoder.{modality}.blocks.{number}", tensors, f"blocks.{number}")
    for number in range(joint):
        assert_block(params, f"encoder.blocks.{number}", tensors, f"blocks.{separate + number}", ("main", "audio", "image"))
    for number in range(2):
        assert_block(params, f"decoder.blocks.{number}", tensors, f"decoder_blocks.{number}")
    for stream in ("main", "audio", "image"):
        np.testing.assert_array_equal(params[f"encoder.norm.{stream}.scale"], tensors["norm.weight"])
    kernel = tensors["patch_embed.proj.weight"]
    in_patch_order = kernel.transpose(2, 3, 1, 0)  # row, column, channel
    np.testing.assert_array_equal(params["encoder.image.patch_embed.kernel"], in_patch_order.reshape(-1, WIDTH))
    np.testing.assert_allclose(params["encoder.audio.patch_embed.kernel"], in_patch_order.sum(axis=2).reshape(-1, WIDTH), atol=1e-6)
    for modality in ("audio", "image"):
        np.testing.assert_array_equal(params[f"encoder.{modality}.patch_embed.bias"], tensors["patch_embed.proj.bias"])
    np.testing.assert_array_equal(params["encoder.image.positions"], tensors["pos_embed"][0, 1:])
    np.testing.assert_array_equal(params["decoder.ends.image.positions"], tensors["decoder_pos_embed"][0, 1:])
    np.testing.assert_array_equal(params["decoder.ends.image.head.kernel"], tensors["decoder_pred.weight"].T)
    np.testing.assert_array_equal(params["decoder.ends.audio.head.kernel"], tensors["decoder_pred.weight"][:16].T)
    np.testing.assert_array_equal(params["decoder.ends.audio.head.bias"], tensors["decoder_pred.bias"][:16])
    np.testing.assert_array_equal(params["decoder.embed.kernel"], tensors["decoder_embed.weight"].T)
    np.testing.assert_array_equal(params["decoder.mask_token"], tensors["mask_token"][0, 0])
    np.testing.assert_array_equal(params["decoder.norm.main.bias"], tensors["decoder_norm.bias"])
    ends = ("audio.modality", "audio.positions", "image.modality")
    assert sorted(fresh) == [f"{part}.{end}" for part in ("decoder.ends", "encoder") for end in ends]


def test_the_lines_say_what_went_where() -> None:
    _, _, lines = pull(image_mae())
    assert "blocks.0 to blocks.1 -> encoder.audio.blocks, encoder.image.blocks" in lines
    assert "blocks.2 -> encoder.blocks (its norms to every stream)" in lines
    assert "patch_embed.proj -> encoder.audio.patch_embed (summed over RGB), encoder.image.patch_embed" in lines
    assert "decoder_pred -> decoder.ends.audio.head (its first 16 rows), decoder.ends.image.head" in lines
    assert "pos_embed -> encoder.image.positions (without the class token's)" in lines
    assert lines[-1] == "left out: cls_token"
    assert lines[-2].startswith("fresh: decoder.ends.audio.modality, ")


def test_a_classifier_takes_the_encoder_and_keeps_its_head() -> None:
    tensors = image_mae()
    params, fresh, lines = pull(tensors, "cavmae_classifier", classes=5)
    assert_block(params, "encoder.blocks.0", tensors, "blocks.2", ("main", "audio", "image"))
    assert {path.split(".")[0] for path in params} == {"encoder"}
    assert {"head.norm.scale", "head.linear.kernel", "encoder.audio.positions"} < set(fresh)
    assert "decoder_blocks" in lines[-1]


@pytest.mark.slow
def supervised(head: str) -> Tensors:
    """The encoder of an MAE under a classification head, as timm, DeiT, the MAE's fine-tuning and transformers name it."""
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


def test_a_file_without_decoder_leaves_it_fresh() -> None:
    tensors = {name: tensor for name, tensor in image_mae().items() if not name.startswith(("decoder", "mask"))}
    model = CAVMAE(config(), rngs=nnx.Rngs(0))
    before = {path: np.asarray(value) for path, value in flatten(nnx.state(model)).items()}
    (line,) = [line for line in vit.initialise(config(), model, tensors) if line.startswith("fresh")]
    assert "decoder.blocks" in line
    for path, value in flatten(nnx.state(model)).items():
        same = np.array_equal(value, before[path])
        assert same == path.startswith(("decoder", "encoder.audio.positions", "encoder.image.positions", "encoder.audio.modality",
                                        "encoder.image.modality")), path  # fmt: skip


# --- one modality -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_token", [True, False])
def test_an_image_mae_takes_everything(class_token: bool) -> None:
    tensors = image_mae()
    params, fresh, lines = pull(tensors, "mae", modality="image", class_token=class_token)
    assert fresh == []
    assert_block(params, "tower.blocks.2", tensors, "blocks.2")
    np.testing.assert_array_equal(params["decoder.ends.image.head.bias"], tensors["decoder_pred.bias"])
    np.testing.assert_array_equal(params["tower.positions"], tensors["pos_embed"][0, 1:])
    if class_token:
        np.testing.assert_array_equal(params["tower.prefix"], tensors["cls_token"][0] + np.arange(WIDTH, dtype=np.float32))
    assert ("left out: cls_token" in lines) != class_token


def test_an_audio_mae_takes_what_cavmaes_sound_takes() -> None:
    tensors = image_mae()
    alone, fresh, _ = pull(tensors, "mae", modality="audio", class_token=True)
    both = pull(tensors).params
    np.testing.assert_array_equal(alone["tower.patch_embed.kernel"], both["encoder.audio.patch_embed.kernel"])
    np.testing.assert_array_equal(alone["decoder.ends.audio.head.kernel"], both["decoder.ends.audio.head.kernel"])
    assert sorted(fresh) == ["decoder.ends.audio.positions", "tower.positions"]


def test_an_ast_takes_both_tokens_with_their_positions_and_its_head() -> None:
    tensors = audio_transformer()
    sizes = config(kind="ast", modality="audio")
    params, fresh, _ = vit.pull(sizes, nnx.eval_shape(lambda: AST(sizes, 5, stride=2, rngs=nnx.Rngs(0))), tensors)
    assert fresh == []
    tokens = np.concatenate([tensors["cls_token"][0], tensors["dist_token"][0]]) + tensors["pos_embed"][0, :2]
    np.testing.assert_array_equal(params["tower.prefix"], tokens)
    np.testing.assert_array_equal(params["tower.positions"], tensors["pos_embed"][0, 2:])
    np.testing.assert_array_equal(params["tower.patch_embed.kernel"], tensors["patch_embed.proj.weight"].reshape(WIDTH, -1).T)
    np.testing.assert_array_equal(params["head.norm.scale"], tensors["mlp_head.0.weight"])
    np.testing.assert_array_equal(params["head.linear.kernel"], tensors["mlp_head.1.weight"].T)


def test_an_audio_mae_takes_its_own_positions_from_a_file_of_audio() -> None:
    tensors = {name: tensor for name, tensor in image_mae().items() if not _is_decoder(name)}
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"][:, :1]
    tensors["pos_embed"] = np.random.default_rng(3).standard_normal((1, 1 + 2 * 3, WIDTH)).astype(np.float32)
    params, _, lines = pull(tensors, "mae", modality="audio", class_token=True)
    np.testing.assert_array_equal(params["tower.positions"], tensors["pos_embed"][0, 1:])
    np.testing.assert_array_equal(params["tower.patch_embed.kernel"], tensors["patch_embed.proj.weight"].reshape(WIDTH, -1).T)
    assert not [line for line in lines if "RGB" in line]
    with pytest.raises(WeightsError, match=r"patch_embed\.proj\.weight.*\(8, 1, 4, 4\).*\(8, 3, 4, 4\)"):
        pull(tensors)


# --- what a file is ---------------------------------------------------------------------------------------------------------------------


def _is_decoder(name: str) -> bool:
    return name.startswith(("decoder", "mask"))


def test_an_image_mae_is_identified() -> None:
    found = identify(image_mae(), heads=2, decoder_heads=1)
    expected = config(kind="mae", modality="image", class_token=True, norm_eps=1e-6)
    ours = dataclasses.replace(found.config, mel_bins=expected.mel_bins, audio_frames=expected.audio_frames)  # which it has none of
    assert (ours, found.classes) == (expected, 0)


@pytest.mark.parametrize("prefix", ["", "v."])
def test_an_ast_is_identified_with_the_normalisation_of_its_input(prefix: str) -> None:
    tensors = audio_transformer()
    tensors["pos_embed"] = np.zeros((1, 2 + 5 * 9, WIDTH), np.float32)  # 48 mel bins and 84 frames, in patches every 10 pixels
    named = {name if name.startswith("mlp_head") else prefix + name: tensor for name, tensor in tensors.items()}
    found = identify(named, heads=2, mel_bins=48)
    assert (found.config.kind, found.classes, found.config.audio_frames, found.config.mel_bins) == ("ast", 5, 84, 48)
    assert (found.notes.audio_mean, found.notes.audio_std) == pytest.approx((-4.268, 9.138), abs=1e-3)
    with pytest.raises(WeightsError, match=r"45 positions .* 64 mel bins"):
        identify(named, heads=2, mel_bins=64)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pos_embed": np.zeros((5, WIDTH))}, r"pos_embed \(5, 8\)"),
        ({"decoder_embed.weight": np.zeros(())}, r"decoder_embed\.weight \(\)"),
        ({"patch_embed.proj.weight": np.zeros((WIDTH, 3, 0, 0))}, r"patch_embed\.proj\.weight \(8, 3, 0, 0\)"),
    ],
)
def test_a_tensor_that_gives_a_size_and_has_the_wrong_axes_is_named(changed: Tensors, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        identify(image_mae() | changed, heads=2, decoder_heads=1)


def test_an_encoder_without_decoder_is_no_model() -> None:
    encoder = {name: tensor for name, tensor in image_mae().items() if not _is_decoder(name)}
    with pytest.raises(WeightsError, match=r"without decoder.*--config\.init_from"):
        identify(encoder, heads=2)


# --- what doesn't fit -------------------------------------------------------------------------------------------------------------------


def test_all_problems_are_listed_at_once() -> None:
    tensors = image_mae()
    tensors["blocks.0.mlp.fc1.weight"] = tensors["blocks.0.mlp.fc1.weight"].T  # of the right size
    tensors["blocks.7.norm1.weight"] = np.zeros(WIDTH, np.float32)
    tensors["neck.weight"] = np.zeros((10, WIDTH), np.float32)
    del tensors["norm.bias"]
    with pytest.raises(WeightsError) as caught:
        pull(tensors)
    assert str(caught.value).splitlines() == [
        "4 tensors don't fit the model:",
        "  misshapen: blocks.0.mlp.fc1.weight is (8, 16), the model's is (16, 8)",
        "  missing: norm.bias",
        "  not used: blocks.7.norm1.weight (8,)",
        "  not used: neck.weight (10, 8)",
    ]


@pytest.mark.parametrize(("name", "part"), [("patch_embed.proj.weight", np.s_[:, :1]), ("decoder_pred.bias", np.s_[:16]), ("mask_token", 0),
                                            ("cls_token", 0), ("pos_embed", 0), ("decoder_pos_embed", np.s_[:, :4])])  # fmt: skip
def test_a_misshapen_tensor_is_named(name: str, part: Any) -> None:
    tensors = image_mae()
    tensors[name] = tensors[name][part]
    with pytest.raises(WeightsError, match=re.escape(name)):
        pull(tensors, "mae", modality="image", class_token=True)


def test_a_class_token_with_a_position_in_the_decoder_has_no_place() -> None:
    tensors = image_mae()
    tensors["decoder_pos_embed"][0, 0, 1] = 0.1
    with pytest.raises(WeightsError, match="decoder_pos_embed"):
        pull(tensors, "mae", modality="image", class_token=True)
    pull(tensors, "mae", modality="image")  # it goes with the token


def test_empty_positions_of_a_decoder_are_misshapen() -> None:
    with pytest.raises(WeightsError, match="decoder_pos_embed"):
        pull(image_mae() | {"decoder_pos_embed": np.zeros((0, 5, DECODER_WIDTH), np.float32)}, "mae", modality="image", class_token=True)


def test_fixed_positions_of_another_size_stay_and_learned_ones_are_refused() -> None:
    tensors = image_mae(side=3)
    _, fresh, lines = pull(tensors)
    assert {"encoder.image.positions", "decoder.ends.image.positions"} < set(fresh)
    assert "pos_embed is sin-cos of 3 x 3 patches: encoder.image.positions keeps its own sin-cos of 2 x 2" in lines
    tensors["pos_embed"][0, 3] += 0.01
    with pytest.raises(WeightsError, match=r"pos_embed is \(1, 10, 8\).*image_size of 12"):
        pull(tensors)


# --- names ------------------------------------------------------------------------------------------------------------------------------

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


# --- init_from --------------------------------------------------------------------------------------------------------------------------


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
    assert f"weights from {path}" in caplog.text
    after = params_of(model)
    if name.startswith("image"):
        assert "(summed over RGB)" in caplog.text
        expected = before | vit.pull(config(), model, image_mae()).params
    else:
        expected = params_of(source)
    for place, value in after.items():
        np.testing.assert_array_equal(value, expected[place])
    assert jax.tree.leaves(nnx.state(model, nnx.Param))[0].dtype == jnp.float32


def test_a_classifier_takes_a_pretrained_encoder_and_heads_of_other_classes_stay_fresh() -> None:
    pretrained = params_of(CAVMAE(config(), rngs=nnx.Rngs(1)))
    for given, said in (
        (pretrained, ["left out: decoder, which this model doesn't have", "fresh: head, missing in the file"]),
        (params_of(CAVMAEClassifier(config(), 7, rngs=nnx.Rngs(2))), ["fresh: head, of other classes in the file"]),
    ):
        model = CAVMAEClassifier(config(), 5, rngs=nnx.Rngs(0))
        before = params_of(model)
        assert take(model, given) == ["all of encoder", *said]
        for place, value in params_of(model).items():
            np.testing.assert_array_equal(value, (before if place.startswith("head") else given)[place])


def test_another_encoder_is_refused_with_every_reason(tmp_path: Path) -> None:
    given = params_of(CAVMAE(config(image_size=12), rngs=nnx.Rngs(1)))
    given["encoder.blocks.9.bias"] = given.pop("encoder.norm.main.bias")
    model = CAVMAE(config(), rngs=nnx.Rngs(0))
    before = params_of(model)
    with pytest.raises(WeightsError) as caught:
        take(model, given)
    lines = str(caught.value).splitlines()
    assert "  missing: encoder.norm.main.bias" in lines
    assert "  unexpected: encoder.blocks.9.bias" in lines
    assert "  misshapen: encoder.image.positions is (9, 8), the model's is (4, 8)" in lines
    for place, value in params_of(model).items():
        np.testing.assert_array_equal(value, before[place])
    io.write(made(config(modality="image")), tmp_path / "run")
    with pytest.raises(WeightsError, match=r"run: .*model\.modality.*image.*both"):
        initialise_from(config(), model, tmp_path / "run")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing\.pth"):
        initialise_from(config(), CAVMAE(config(), rngs=nnx.Rngs(0)), tmp_path / "missing.pth")
    assert apply(Config(), TINY).init_from == ""
