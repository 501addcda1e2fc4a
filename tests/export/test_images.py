"""Tests that frames are resized inside a program as the library resizes them: to the last bit, whatever their size."""

import io

import jax
import numpy as np
import pytest
from jax import export
from PIL import Image

from avmae_jax.data.decode.images import decode_image
from avmae_jax.export.images import resize


def frame(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    return np.concatenate([noise[: height // 2], np.zeros_like(noise[height // 2 :])])  # with an edge, at which bicubic overshoots


def decoded(image: np.ndarray, side: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return decode_image(file.getvalue(), side)


@pytest.fixture(scope="module")
def resized() -> export.Exported:
    batch, height, width = export.symbolic_shape("batch, height, width")
    return export.export(jax.jit(lambda frames: resize(frames, 32)))(jax.ShapeDtypeStruct((batch, height, width, 3), np.uint8))


@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (32, 45), (64, 96), (65, 33), (20, 31), (9, 200), (45, 32), (33, 32), (48, 71), (1, 1)], ids=str
)
def test_a_frame_of_any_size_is_resized_to_the_last_bit(resized: export.Exported, height: int, width: int) -> None:
    images = [frame(height, width), frame(height, width)[::-1]]
    found = np.asarray(resized.call(np.stack(images)))
    np.testing.assert_array_equal(found, [decoded(np.ascontiguousarray(image), 32) for image in images])
