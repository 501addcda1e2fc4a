"""Which tensor of a transformer of one modality each parameter is taken from, value by value, and what is refused."""

import re
from typing import Any

import numpy as np
import pytest
from flax import nnx

from avmae_jax.errors import WeightsError
from avmae_jax.models.ast import AST
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.trees import flatten
from avmae_jax.weights import vit
from tests.weights.small_vit import DEPTH, WIDTH, Tensors, audio_transformer, config, image_mae, is_decoder, pull


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
    for there, here in (
        ("blocks.0 to blocks.1", ["encoder.audio.blocks", "encoder.image.blocks"]),
        ("blocks.2", ["encoder.blocks"]),
        ("patch_embed.proj", ["encoder.audio.patch_embed", "encoder.image.patch_embed"]),
        ("decoder_pred", ["decoder.ends.audio.head", "decoder.ends.image.head"]),
        ("pos_embed", ["encoder.image.positions"]),
        ("fresh:", ["decoder.ends.audio.modality"]),
        ("left out:", ["cls_token"]),
    ):
        (line,) = [line for line in lines if line.startswith(f"{there} ")]
        assert all(part in line for part in here)


def test_a_classifier_takes_the_encoder_and_keeps_its_head() -> None:
    tensors = image_mae()
    params, fresh, lines = pull(tensors, "cavmae_classifier", classes=5)
    assert_block(params, "encoder.blocks.0", tensors, "blocks.2", ("main", "audio", "image"))
    assert {path.split(".")[0] for path in params} == {"encoder"}
    assert {"head.norm.scale", "head.linear.kernel", "encoder.audio.positions"} < set(fresh)
    assert "decoder_blocks" in lines[-1]


@pytest.mark.slow
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
    tensors = {name: tensor for name, tensor in image_mae().items() if not is_decoder(name)}
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"][:, :1]
    tensors["pos_embed"] = np.random.default_rng(3).standard_normal((1, 1 + 2 * 3, WIDTH)).astype(np.float32)
    params, _, lines = pull(tensors, "mae", modality="audio", class_token=True)
    np.testing.assert_array_equal(params["tower.positions"], tensors["pos_embed"][0, 1:])
    np.testing.assert_array_equal(params["tower.patch_embed.kernel"], tensors["patch_embed.proj.weight"].reshape(WIDTH, -1).T)
    assert not [line for line in lines if "RGB" in line]
    with pytest.raises(WeightsError, match=r"patch_embed\.proj\.weight.*\(8, 1, 4, 4\).*\(8, 3, 4, 4\)"):
        pull(tensors)


def test_all_problems_are_listed_at_once() -> None:
    tensors = image_mae()
    tensors["blocks.0.mlp.fc1.weight"] = tensors["blocks.0.mlp.fc1.weight"].T  # of the right size
    tensors["blocks.7.norm1.weight"] = np.zeros(WIDTH, np.float32)
    tensors["head.weight"] = np.zeros((10, WIDTH), np.float32)
    del tensors["norm.bias"]
    with pytest.raises(WeightsError) as caught:
        pull(tensors)
    expected = [
        "4 ",
        r"misshapen: blocks\.0\.mlp\.fc1\.weight.*\(8, 16\).*\(16, 8\)",
        r"missing: norm\.bias",
        r"not used: blocks\.7\.norm1\.weight \(8,\)",
        r"not used: head\.weight \(10, 8\)",
    ]
    for line, part in zip(str(caught.value).splitlines(), expected, strict=True):
        assert re.search(part, line)


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


def test_fixed_positions_of_another_size_stay_and_learned_ones_are_refused() -> None:
    tensors = image_mae(side=3)
    _, fresh, lines = pull(tensors)
    assert {"encoder.image.positions", "decoder.ends.image.positions"} < set(fresh)
    assert [line for line in lines if re.search(r"pos_embed.*3 x 3.*encoder\.image\.positions.*2 x 2", line)]
    tensors["pos_embed"][0, 3] += 0.01
    with pytest.raises(WeightsError, match=r"pos_embed.*\(1, 10, 8\).*image_size.* 12"):
        pull(tensors)
