"""Runs the masked pass of a pretraining model: in training, for figures of reconstructions, and for inpainting.

Axis letters: B batch, L tokens.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.config import Config
from avmae_jax.data.fbank import RowByRow, num_frames, together
from avmae_jax.data.frontend import model_inputs, normalisation
from avmae_jax.inference.panels import Panels, compose
from avmae_jax.models.masking import sample_noise
from avmae_jax.models.patches import as_image
from avmae_jax.models.registry import kind_of
from avmae_jax.models.rows import RowKey, split

Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedPass:
    """Draws masks as a config says, and applies a pretraining model of its kind to batches of data/batches.py."""

    config: Config

    def noise(self, inputs: Arrays, key: RowKey) -> dict[str, jax.Array]:
        """Draws masking noise for each modality: float32[B, L]."""
        model = self.config.model
        keys = split(key, len(inputs)) if len(inputs) > 1 else [key]
        ratios = {"audio": model.audio_mask_ratio, "image": model.image_mask_ratio}
        modes = {"audio": model.audio_mask_mode, "image": "unstructured"}
        return {
            modality: sample_noise(own, len(values), model.grid(modality), ratios[modality], modes[modality])
            for own, (modality, values) in zip(keys, inputs.items(), strict=True)
        }

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
          The model's result (with .predictions and .masks by modality) and its inputs, as frontend.model_inputs computes them.
        """
        given, wanted = model_inputs(batch, self.config, own_rows), kind_of(self.config.model).inputs(self.config.model)
        inputs = {modality: given[modality] for modality in wanted}
        return model(inputs, self.noise(inputs, key), drop_key), inputs


def compose_all(out: Any, inputs: Mapping[str, Any], batch: Mapping[str, Any], config: Config) -> dict[str, Panels]:
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
        frames = np.clip(num_frames(np.asarray(batch["samples"])), 0, model.audio_frames)
        found["audio"] = found["audio"]._replace(frames=frames, scales=_scales(batch, config))
    return found


def _scales(batch: Mapping[str, Any], config: Config) -> np.ndarray:
    """Returns mean and deviation by which the log-mel of each clip is normalised: float64[B, 2]."""
    if config.data.normalise != "clip":
        return np.tile(np.array(config.data.normalisation, np.float64), (len(batch["samples"]), 1))
    parts = jax.device_get(normalisation({name: jnp.asarray(value) for name, value in batch.items()}, config))
    return np.stack([np.asarray(part, np.float64).reshape(-1) for part in parts], axis=-1)
