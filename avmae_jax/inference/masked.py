"""Runs the masked pass of a pretraining model: in training, for figures of reconstructions, and for inpainting.

Axis letters: B batch, L tokens.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.config import Applied
from avmae_jax.data.fbank import RowByRow, num_frames, together
from avmae_jax.data.frontend import model_inputs, normalisation
from avmae_jax.inference.panels import Panels, compose
from avmae_jax.models.masking import sample_noise
from avmae_jax.models.pairs import merge_pairs, pairs_in
from avmae_jax.models.patches import as_image
from avmae_jax.models.registry import kind_of
from avmae_jax.models.rows import RowKey, fold_in, split

Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedPass:
    """Draws masks as a config says, and applies a pretraining model of its kind to batches of data/batches.py."""

    config: Applied

    def noise(self, inputs: Arrays, key: RowKey, pairs: int = 1, *, structured: bool = True) -> dict[str, jax.Array]:
        """Draws masking noise for each modality: float32[rows, L].

        Args:
          inputs: of which only the number of rows matters.
          key: decides the masks.
          pairs: rows of a clip, which stand next to each other; each has a mask of its own.
          structured: whether masks of audio have the structure that the config says.
        """
        model = self.config.model
        keys = split(key, len(inputs)) if len(inputs) > 1 else [key]
        ratios = {"audio": model.audio_mask_ratio, "image": model.image_mask_ratio}
        modes = {"audio": model.audio_mask_mode if structured else "unstructured", "image": "unstructured"}

        def draw(modality: str, clips: int, own: RowKey) -> jax.Array:
            return sample_noise(own, clips, model.grid(modality), ratios[modality], modes[modality])

        drawn: dict[str, jax.Array] = {}
        for own, (modality, values) in zip(keys, inputs.items(), strict=True):
            of_pairs = [draw(modality, len(values) // pairs, fold_in(own, pair) if pair else own) for pair in range(pairs)]
            drawn[modality] = jnp.stack(of_pairs, axis=1).reshape(len(values), -1)
        return drawn

    def rows(self, batch: Arrays, own_rows: Callable[[RowByRow], RowByRow] = together) -> tuple[dict[str, jax.Array], int]:
        """Computes the inputs of the model, [rows, ...], and how many rows a clip has: its pairs, or one."""
        spec = kind_of(self.config.model)
        given = model_inputs(batch, self.config, own_rows)
        inputs = {modality: given[modality] for modality in spec.inputs(self.config.model)}
        return (merge_pairs(inputs), pairs_in(inputs)[1]) if spec.pairs else (inputs, 1)

    def __call__(
        self,
        model: Any,
        batch: Arrays,
        key: RowKey,
        drop_key: RowKey | None = None,
        own_rows: Callable[[RowByRow], RowByRow] = together,
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Runs the masked pass on a batch.

        Args:
          model: of the config's kind.
          batch: of data/batches.py, on the device.
          key: decides the masks.
          drop_key: decides in training which blocks are skipped; None: none is.
          own_rows: lets each device compute a function of rows on those that it holds.

        Returns:
          The model's result (with .predictions and .masks by modality) and its inputs, as `rows` computes them.
        """
        inputs, pairs = self.rows(batch, own_rows)
        return model(inputs, self.noise(inputs, key, pairs), drop_key), inputs


def compose_all(out: Any, inputs: Mapping[str, Any], batch: Mapping[str, Any], config: Applied) -> dict[str, Panels]:
    """Puts the predictions of a masked pass into the hidden places of its inputs, by modality, image first.

    Args:
      out: of MaskedPass.
      inputs: of MaskedPass.
      batch: that it was applied to.
      config: of the run.
    """
    model = config.model
    found = {
        modality: compose(
            np.asarray(as_image(modality, jnp.asarray(inputs[modality]))),
            out.predictions[modality],
            out.masks[modality].hidden,
            grid=model.grid(modality),
            patch=model.patch,
            norm_pix=config.loss.norm_pix,
        )
        for modality in sorted(out.predictions, reverse=True)
    }
    if "audio" in found:
        held = num_frames(np.asarray(batch["samples"]))
        held = held - np.asarray(batch["window"])[:, 0] if "window" in batch else held  # of the only pair
        frames = np.clip(held, 0, model.audio_frames)
        found["audio"] = found["audio"]._replace(frames=frames, scales=_scales(batch, config))
    return found


def _scales(batch: Mapping[str, Any], config: Applied) -> np.ndarray:
    """Returns mean and deviation by which the log-mel of each clip is normalised: float64[B, 2]."""
    if config.data.normalise != "clip":
        return np.tile(np.array(config.data.normalisation, np.float64), (len(batch["samples"]), 1))
    parts = jax.device_get(normalisation({name: jnp.asarray(value) for name, value in batch.items()}, config))
    return np.stack([np.asarray(part, np.float64).reshape(-1) for part in parts], axis=-1)
