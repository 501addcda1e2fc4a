"""An official state dict, written here from the original's module tree, converted and compared tensor by tensor."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.errors import WeightsError
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.trees import flatten
from avmae_jax.weights import named_tensors
from avmae_jax.weights.build import build_official, described
from avmae_jax.weights.official import convert_tensor, from_official, is_unused, name_of, path_of, to_official
from avmae_jax.weights.official_sizes import infer_sizes
from tests.support import ODD
from tests.weights.folders import EVERY

D, DD, P = 16, 8, 8  # widths of encoder and decoder, patch
LA, LV = 6, 4  # 2 x 3 and 2 x 2 patches


def _fresh() -> CAVMAE:
    return CAVMAE(ODD, rngs=nnx.Rngs(0))


def _official_shapes() -> dict[str, tuple[int, ...]]:
    """The state dict of the original CAVMAE at these sizes."""
    shapes: dict[str, tuple[int, ...]] = {"mask_token": (1, 1, DD)}
    for m, length, channels in (("a", LA, 1), ("v", LV, 3)):
        shapes |= {f"modality_{m}": (1, 1, D), f"decoder_modality_{m}": (1, 1, DD)}
        shapes |= {f"pos_embed_{m}": (1, length, D), f"decoder_pos_embed_{m}": (1, length, DD)}
        shapes |= {f"patch_embed_{m}.proj.weight": (D, channels, P, P), f"patch_embed_{m}.proj.bias": (D,)}
        shapes |= {f"decoder_pred_{m}.weight": (P * P * channels, DD), f"decoder_pred_{m}.bias": (P * P * channels,)}
    shapes |= {"decoder_embed.weight": (DD, D), "decoder_embed.bias": (DD,)}
    norms = {"norm": D, "norm_a": D, "norm_v": D, "decoder_norm": DD}
    for stack, depth, width in (("blocks_a", 1, D), ("blocks_v", 1, D), ("blocks_u", 2, D), ("decoder_blocks", 2, DD)):
        for block in (f"{stack}.{i}" for i in range(depth)):
            norms |= {f"{block}.{norm}{stream}": width for norm in ("norm1", "norm2") for stream in ("", "_a", "_v")}
            layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
            layers |= {"mlp.fc1": (2 * width, width), "mlp.fc2": (width, 2 * width)}
            for name, shape in layers.items():
                shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in _official_shapes().items()}


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    """Dotted path -> shape, of our model."""
    model = nnx.eval_shape(_fresh)
    return {path: leaf.shape for path, leaf in flatten(model).items()}


@pytest.fixture(scope="module")
def model(official: dict[str, np.ndarray]) -> CAVMAE:
    return build_official(_fresh, official)


def test_names_map_one_to_one_onto_our_parameters(official: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    paths = [path_of(name) for name in official if not is_unused(name)]
    assert len(set(paths)) == len(paths)
    assert set(paths) == set(shapes)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("modality_v", "encoder.image.modality"),
        ("patch_embed_a.proj.weight", "encoder.audio.patch_embed.kernel"),
        ("pos_embed_a", "encoder.audio.positions"),
        ("blocks_v.3.mlp.fc2.bias", "encoder.image.blocks.3.mlp.fc2.bias"),
        ("blocks_a.10.norm2.weight", "encoder.audio.blocks.10.norm2.main.scale"),
        ("blocks_u.0.norm1_a.weight", "encoder.blocks.0.norm1.audio.scale"),
        ("blocks_u.1.norm2_v.bias", "encoder.blocks.1.norm2.image.bias"),
        ("blocks_u.1.norm2.bias", "encoder.blocks.1.norm2.main.bias"),
        ("norm.weight", "encoder.norm.main.scale"),
        ("norm_v.bias", "encoder.norm.image.bias"),
        ("decoder_norm.weight", "decoder.norm.main.scale"),
        ("decoder_embed.weight", "decoder.embed.kernel"),
        ("decoder_pos_embed_v", "decoder.ends.image.positions"),
        ("decoder_modality_a", "decoder.ends.audio.modality"),
        ("decoder_pred_a.bias", "decoder.ends.audio.head.bias"),
        ("decoder_blocks.7.attn.qkv.weight", "decoder.blocks.7.attn.qkv.kernel"),
        ("mask_token", "decoder.mask_token"),
    ],
)
def test_a_name_becomes_its_path_and_back(name: str, path: str) -> None:
    assert path_of(name) == path
    assert name_of(path) == name


@pytest.mark.parametrize("name", ["decoder.mask_token", "blocks_x.0.attn.qkv.weight", "blocks_a.0.attn.qkv.scale", "norm", "cls_token", ""])
def test_an_unknown_name_has_no_path(name: str) -> None:
    assert path_of(name) is None
    assert name_of(f"nowhere.{name}") is None


def test_exactly_the_second_and_third_norms_outside_the_joint_blocks_are_unused(official: dict[str, np.ndarray]) -> None:
    unused = {name for name in official if is_unused(name)}
    assert len(unused) == (1 + 1 + 2) * 2 * 2 * 2  # blocks, norms, streams, weight and bias
    assert {name.rsplit(".", 2)[1] for name in unused} == {"norm1_a", "norm1_v", "norm2_a", "norm2_v"}
    assert not [name for name in unused if name.startswith(("blocks_u", "norm"))]


def test_every_tensor_arrives_in_our_layout(official: dict[str, np.ndarray], model: CAVMAE) -> None:
    params = {name: np.asarray(value) for name, value in flatten(model).items()}
    for name, tensor in official.items():
        if is_unused(name):
            continue
        ours = params[str(path_of(name))]
        assert ours.dtype == np.float32
        if tensor.ndim == 4:  # [D, C, P, P] -> [P * P * C, D], channel fastest
            for d, c, y, x in [(0, 0, 0, 0), (3, tensor.shape[1] - 1, 2, 5), (15, 0, 7, 1)]:
                assert ours[(y * P + x) * tensor.shape[1] + c, d] == tensor[d, c, y, x], name
        elif "qkv" in name:  # [3D, D] -> [D, 3, heads, channels]
            fused = tensor.reshape(3, 2, -1, *tensor.shape[1:])
            np.testing.assert_array_equal(ours, np.moveaxis(fused, -1, 0) if tensor.ndim == 2 else fused, err_msg=name)
        elif "attn.proj.weight" in name:  # [D, D] -> [heads, channels, D]
            np.testing.assert_array_equal(ours.reshape(tensor.shape), tensor.T, err_msg=name)
            assert ours.shape[0] == 2
        elif tensor.ndim == 2:  # linear [out, in] -> [in, out]
            np.testing.assert_array_equal(ours, tensor.T, err_msg=name)
        else:
            np.testing.assert_array_equal(ours.reshape(tensor.shape), tensor, err_msg=name)


def test_the_patch_embedding_is_the_original_convolution(official: dict[str, np.ndarray], model: CAVMAE) -> None:
    image = np.random.default_rng(1).standard_normal((1, 16, 16, 3)).astype(np.float32)
    weight, bias = official["patch_embed_v.proj.weight"], official["patch_embed_v.proj.bias"]
    ours = nnx.jit(lambda model, image: model.encoder.image.embed(image)["image.patches"])(model, image)
    for token, (y, x) in enumerate([(0, 0), (0, 8), (8, 0), (8, 8)]):
        patch = image[0, y : y + 8, x : x + 8].transpose(2, 0, 1)  # torch: channels first
        expected = (weight * patch).sum(axis=(1, 2, 3)) + bias + official["pos_embed_v"][0, token] + official["modality_v"][0, 0]
        np.testing.assert_allclose(ours[0, token], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_built_model_runs(model: CAVMAE) -> None:
    noise = {"audio": jax.random.uniform(jax.random.key(0), (2, LA)), "image": jax.random.uniform(jax.random.key(1), (2, LV))}
    inputs = {"audio": jnp.ones((2, 24, 16)), "image": jnp.ones((2, 16, 16, 3))}
    out = nnx.jit(lambda model, *inputs: model(*inputs))(model, inputs, noise)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


def test_unused_norms_may_be_left_out(official: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    without = {name: tensor for name, tensor in official.items() if not is_unused(name)}
    full, lean = from_official(official, shapes), from_official(without, shapes)
    assert set(full) == set(lean) == set(shapes)
    for path, value in full.items():
        np.testing.assert_array_equal(value, lean[path])


def test_every_missing_unexpected_and_misshapen_tensor_is_listed(
    official: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> None:
    wrong = dict(official)
    for name in ("norm_a.bias", "blocks_u.1.attn.qkv.weight"):
        del wrong[name]
    wrong |= {"mlp_head.0.weight": np.zeros(3), "blocks_v.7.mlp.fc1.bias": np.zeros(32)}
    wrong |= {"pos_embed_a": np.zeros((1, 7, D)), "decoder_pred_v.weight": np.zeros((200, DD))}
    with pytest.raises(WeightsError) as error:
        from_official(wrong, shapes)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("6 tensors")
    assert sorted(line.strip() for line in lines[1:]) == sorted(
        [
            "missing: norm_a.bias",
            "missing: blocks_u.1.attn.qkv.weight",
            "unexpected: mlp_head.0.weight (3,)",
            "unexpected: blocks_v.7.mlp.fc1.bias (32,)",
            "misshapen: pos_embed_a is (1, 7, 16), the model's is (1, 6, 16)",
            "misshapen: decoder_pred_v.weight is (200, 8), the model's is (192, 8)",
        ]
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blocks_a.0.mlp.fc1.weight", (D, 2 * D)),  # [in, out] instead of [out, in]
        ("blocks_u.0.attn.qkv.weight", (D, 3 * D)),
        ("pos_embed_a", (1, D, LA)),
        ("patch_embed_v.proj.weight", (3, D, P, P)),
    ],
)
def test_a_tensor_of_the_right_size_and_the_wrong_shape_is_misshapen(
    official: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]], name: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(WeightsError, match=name):
        from_official({**official, name: official[name].reshape(shape)}, shapes)


def test_there_and_back_is_the_same_to_the_last_bit(official: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    back = to_official(from_official(official, shapes))
    assert set(back) == set(official)
    for name, tensor in back.items():
        expected = np.full(tensor.shape, name.endswith("weight"), np.float32) if is_unused(name) else official[name]
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, expected, err_msg=name, strict=True)


def test_a_parameter_without_official_place_is_named(official: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(WeightsError, match=r"tower\.prefix"):
        to_official({**from_official(official, shapes), "tower.prefix": np.zeros((1, D), np.float32)})


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_parameters_are_float32_whatever_was_stored(official: dict[str, np.ndarray], dtype: type) -> None:
    model = build_official(_fresh, {name: tensor.astype(dtype) for name, tensor in official.items()})
    assert {value.dtype for value in flatten(model).values()} == {jnp.dtype("float32")}


def test_conversion_is_linear(official: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    rng = np.random.default_rng(3)
    other = {name: rng.standard_normal(tensor.shape).astype(np.float32) for name, tensor in official.items()}
    added = from_official({name: official[name] + 2 * other[name] for name in official}, shapes)
    parts = from_official(official, shapes), from_official(other, shapes)
    for path, value in added.items():
        np.testing.assert_array_equal(value, parts[0][path] + 2 * parts[1][path])


def test_a_tensor_that_does_not_fit_raises() -> None:
    with pytest.raises(ValueError, match="5,3"):
        convert_tensor(np.zeros((4, 3)), (5, 3))


def test_sizes_follow_from_the_tensors(official: dict[str, np.ndarray]) -> None:
    assert infer_sizes(official, heads=2, decoder_heads=2, mel_bins=16) == ODD


def test_a_classifier_s_state_dict_has_sizes_too(official: dict[str, np.ndarray]) -> None:
    encoder = {name: tensor for name, tensor in official.items() if "decoder" not in name}
    sizes = infer_sizes(encoder, heads=2, mel_bins=16)
    assert (sizes.depth, sizes.width, sizes.heads, sizes.audio_frames) == (3, 16, 2, 24)


def test_another_model_s_state_dict_is_named() -> None:
    with pytest.raises(WeightsError, match=r"patch_embed_v\.proj\.weight.*cls_token"):
        infer_sizes({"cls_token": np.zeros(3)})


def test_heads_are_those_of_the_published_width_or_must_be_given(official: dict[str, np.ndarray]) -> None:
    with pytest.raises(WeightsError, match=r"decoder_width.* 8"):
        infer_sizes(official, heads=2)
    wide = {**official, "patch_embed_v.proj.weight": np.zeros((768, 3, P, P))}
    assert infer_sizes(wide, decoder_heads=2).heads == 12


def test_the_published_model_of_pairs_has_650_tensors_by_these_names() -> None:
    config = ModelConfig(kind="sync", class_token=True, registers=8, audio_frames=416, clip_frames=1024)
    shapes = {path: leaf.shape for path, leaf in flatten(described(config)).items()}
    assert (
        sum(math.prod(shape) for shape in shapes.values()) == 190_660_864 - 22 * 4 * 2 * 768 - 8 * 4 * 2 * 512
    )  # without norms never used
    names = {str(name_of(path)).removesuffix("_a").removesuffix("_v") if "register" in path else str(name_of(path)) for path in shapes}
    unused = {f"{stack}.{number}.norm{norm}_{m}.{kind}" for stack, depth in (("blocks_a", 11), ("blocks_v", 11), ("decoder_blocks", 8))
              for number in range(depth) for norm in (1, 2) for m in "av" for kind in ("weight", "bias")}  # fmt: skip
    assert all(map(is_unused, unused))
    assert len(names | unused) == 650
    assert {"register_tokens", "cls_token_a", "cls_token_v", "pos_embed_a", "norm_a.weight"} <= names


@pytest.mark.parametrize("name", ["sync", "sync, with blocks for the contrast", "sync_classifier", "sync_classifier, late"])
def test_models_of_pairs_go_there_and_back_and_show_their_sizes(name: str) -> None:
    want = EVERY[name]
    tensors = to_official(want.params)
    back = from_official(tensors, {path: value.shape for path, value in want.params.items()})
    for path, value in want.params.items():
        np.testing.assert_array_equal(back[path], value, err_msg=path, strict=True)
    found = named_tensors.unnoted(tensors, 2, 2, 32)
    shown = {field: getattr(want.config, field) for field in ("class_token", "registers", "contrast_depth", "pair_depth", "pair_pool")}
    assert {field: getattr(found.config, field) for field in shown} == shown
    assert (found.config.kind, found.config.clip_frames, found.config.window_rate) == (want.config.kind, 1024, 102.4)
    assert found.notes.frames == 16  # as the authors trained
