"""Predictions are put into hidden places only, with the contrast of the original where patches were normalised."""

import numpy as np

from avmae_jax.inference.panels import compose

PATCH = 4
IMAGE_GRID = (2, 2)


def test_predictions_appear_in_hidden_places_only() -> None:
    inputs = np.zeros((1, 8, 8, 3), np.float32)
    pred = np.arange(1, 5, dtype=np.float32)[None, :, None] * np.ones((1, 4, PATCH * PATCH * 3), np.float32)
    hidden = np.array([[0, 1, 0, 1]], np.float32)  # the right half
    panels = compose(inputs, pred, hidden, grid=IMAGE_GRID, patch=PATCH, norm_pix=False)
    expected = np.zeros((1, 8, 8, 3))
    expected[:, :4, 4:], expected[:, 4:, 4:] = 2, 4
    np.testing.assert_array_equal(panels.reconstructed, expected)
    np.testing.assert_array_equal(panels.hidden, expected[..., 0] > 0)


def test_normalised_predictions_get_mean_and_contrast_of_the_original_patch() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.uniform(2, 5, (1, 8, 8, 1)).astype(np.float32)
    pred = rng.standard_normal((1, 4, PATCH * PATCH)).astype(np.float32)
    panels = compose(inputs, pred, np.ones((1, 4)), grid=IMAGE_GRID, patch=PATCH, norm_pix=True)
    corner = inputs[0, :4, 4:, 0]
    expected = pred[0, 1].reshape(4, 4) * corner.std(ddof=1) + corner.mean()
    np.testing.assert_allclose(panels.reconstructed[0, :4, 4:, 0], expected, rtol=1e-5)
