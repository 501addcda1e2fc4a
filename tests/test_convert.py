"""An official state dict, written here from the original's module tree, converted and compared tensor by tensor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.convert import (
    ConversionError,
    build,
    convert_state,
    convert_tensor,
    dotted,
    flat_params,
    infer_sizes,
    is_unused,
    path_of,
)
from avmae_jax.models.cavmae import CAVMAE

CONFIG = ModelConfig(
    depth=3,
    joint_depth=2,
    width=16,
    heads=2,
    decoder_depth=2,
    decoder_width=8,
    decoder_heads=2,
    audio_frames=24,
    mel_bins=16,
    image_size=16,
    patch=8,
    mlp_ratio=2.0,
)
D, DD, P = 16, 8, 8  # widths of encoder and decoder, patch
LA, LV = 6, 4  # 2 x 3 and 2 x 2 patches


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
    model = nnx.eval_shape(lambda: CAVMAE(CONFIG, rngs=nnx.Rngs(0)))
    return {dotted(path): variable.shape for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.fixture(scope="module")
def model(official: dict[str, np.ndarray]) -> CAVMAE:
    return build(CONFIG, official)


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
        ("decoder_pos_embed_v", "decoder.image.positions"),
        ("decoder_modality_a", "decoder.audio.modality"),
        ("decoder_pred_a.bias", "decoder.audio.head.bias"),
        ("decoder_blocks.7.attn.qkv.weight", "decoder.blocks.7.attn.qkv.kernel"),
        ("mask_token", "decoder.mask_token"),
    ],
)
def test_a_name_becomes_its_path(name: str, path: str) -> None:
    assert path_of(name) == path


def test_exactly_the_second_and_third_norms_outside_the_joint_blocks_are_unused(official: dict[str, np.ndarray]) -> None:
    unused = {name for name in official if is_unused(name)}
    assert len(unused) == (1 + 1 + 2) * 2 * 2 * 2  # blocks, norms, streams, weight and bias
    assert {name.rsplit(".", 2)[1] for name in unused} == {"norm1_a", "norm1_v", "norm2_a", "norm2_v"}
    assert not [name for name in unused if name.startswith(("blocks_u", "norm"))]


def test_every_tensor_arrives_in_our_layout(official: dict[str, np.ndarray], model: CAVMAE) -> None:
    params = {name: np.asarray(value) for name, value in flat_params(model).items()}
    for name, tensor in official.items():
        if is_unused(name):
            continue
        ours = params[path_of(name)]
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
    ours = nnx.jit(lambda model, image: model.encoder.embed_image(image))(model, image)
    for token, (y, x) in enumerate([(0, 0), (0, 8), (8, 0), (8, 8)]):
        patch = image[0, y : y + 8, x : x + 8].transpose(2, 0, 1)  # torch: channels first
        expected = (weight * patch).sum(axis=(1, 2, 3)) + bias + official["pos_embed_v"][0, token] + official["modality_v"][0, 0]
        np.testing.assert_allclose(ours[0, token], expected, rtol=1e-4, atol=1e-4)


def test_a_built_model_runs(model: CAVMAE) -> None:
    noise = jax.random.uniform(jax.random.key(0), (2, LA)), jax.random.uniform(jax.random.key(1), (2, LV))
    out = nnx.jit(lambda model, *inputs: model(*inputs))(model, jnp.ones((2, 24, 16)), jnp.ones((2, 16, 16, 3)), *noise)
    assert all(np.isfinite(x).all() for x in out[:5])


def test_unused_norms_may_be_left_out(official: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    without = {name: tensor for name, tensor in official.items() if not is_unused(name)}
    full, lean = convert_state(official, shapes), convert_state(without, shapes)
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
    with pytest.raises(ConversionError) as error:
        convert_state(wrong, shapes)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("6 tensors")
    assert sorted(line.strip() for line in lines[1:]) == sorted(
        [
            "missing: encoder.norm.audio.bias",
            "missing: encoder.blocks.1.attn.qkv.kernel",
            "unexpected: mlp_head.0.weight",
            "unexpected: blocks_v.7.mlp.fc1.bias",
            "misshapen: pos_embed_a is (1, 7, 16) and can't become (6, 16) (encoder.audio.positions)",
            "misshapen: decoder_pred_v.weight is (200, 8) and can't become (8, 192) (decoder.image.head.kernel)",
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
    with pytest.raises(ConversionError, match=f"misshapen: {name}"):
        convert_state({**official, name: official[name].reshape(shape)}, shapes)


def test_two_tensors_for_one_parameter_are_refused(official: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ConversionError, match=r"decoder\.mask_token"):
        convert_state({**official, "decoder.mask_token": np.zeros((1, 1, DD), np.float32)}, shapes)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_parameters_are_float32_whatever_was_stored(official: dict[str, np.ndarray], dtype: type) -> None:
    model = build(CONFIG, {name: tensor.astype(dtype) for name, tensor in official.items()})
    assert {value.dtype for value in flat_params(model).values()} == {jnp.dtype("float32")}


def test_conversion_is_linear(official: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    rng = np.random.default_rng(3)
    other = {name: rng.standard_normal(tensor.shape).astype(np.float32) for name, tensor in official.items()}
    added = convert_state({name: official[name] + 2 * other[name] for name in official}, shapes)
    parts = convert_state(official, shapes), convert_state(other, shapes)
    for path, value in added.items():
        np.testing.assert_array_equal(value, parts[0][path] + 2 * parts[1][path])


def test_a_tensor_that_does_not_fit_raises() -> None:
    with pytest.raises(ValueError, match="reshape"):
        convert_tensor(np.zeros((4, 3)), (5, 3))


def test_sizes_follow_from_the_tensors(official: dict[str, np.ndarray]) -> None:
    assert infer_sizes(official, heads=2, decoder_heads=2, mel_bins=16) == CONFIG


def test_a_state_dict_without_a_decoder_is_named(official: dict[str, np.ndarray]) -> None:
    encoder = {name: tensor for name, tensor in official.items() if "decoder" not in name}
    with pytest.raises(ConversionError, match=r"no weights of a CAV-MAE with decoder: decoder_embed\.weight missing"):
        infer_sizes(encoder, heads=2, decoder_heads=2)
