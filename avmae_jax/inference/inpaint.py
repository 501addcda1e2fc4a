"""Fills in hidden parts of clips with a pretraining model, as images, spectrograms and audio.

Axis letters: T spectrogram frames, M mel bins, H W image, S samples.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax import nnx

from avmae_jax.config import Applied, Modality
from avmae_jax.data.clip import Clip
from avmae_jax.data.fbank import SILENCE
from avmae_jax.data.rows import EvalOptions, views
from avmae_jax.inference.griffin_lim import mel_to_waveform
from avmae_jax.inference.masked import MaskedPass, compose_all
from avmae_jax.inference.panels import Panels
from avmae_jax.trees import flatten
from avmae_jax.weights.build import described, fill
from avmae_jax.weights.trained import Trained

LOUDEST = 0.9  # of full scale: the peak of the louder one of the original and the reconstruction


class Inpainted(NamedTuple):
    """Holds a clip whose hidden patches are filled in."""

    panels: dict[str, Panels]  # under "image" and "audio", or one of these; one clip each
    frames: int  # spectrogram frames that belong to the clip, at most T; 0 for a model of images alone


class Waveforms(NamedTuple):
    """Holds a clip's audio in three stages, all through Griffin-Lim, to separate the model's losses from those of Griffin-Lim."""

    original: np.ndarray  # float64[S] in [-0.9, 0.9], of the unmasked log-mel
    reconstructed: np.ndarray  # float64[S], with the same gain
    masked: np.ndarray  # float64[S], with the same gain, cut off at full scale; the hidden patches are silent


class Inpainter:
    """Hides patches of clips and fills them in with a pretraining model.

    Args:
      trained: a pretraining model of both modalities, or of one.
      masking: fields of ModelConfig that differ from the model's own: audio_mask_ratio, image_mask_ratio, audio_mask_mode.

    Raises:
      ValueError: if the model is a classifier, the masking can't be, or it is of a modality that the model lacks.
    """

    def __init__(self, trained: Trained, masking: Mapping[str, Any] | None = None):
        if trained.spec.task != "pretraining":
            raise ValueError(
                f"{trained.path} is a {trained.spec.title}, which has no decoder to fill anything in; give the run it was pretrained in"
            )
        own = trained.config.model.modality
        for name in masking or {}:
            if own not in ("both", name.split("_", maxsplit=1)[0]):
                raise ValueError(f"{name} is of no use: {trained.path} is a model of {own} alone; leave it out")
        sizes = dataclasses.replace(trained.config.model, **(masking or {}))
        sizes.validate()
        self._pairs = trained.spec.pairs
        self.config: Applied = dataclasses.replace(trained.config, model=sizes)
        # the same parameters in a model with the new masking; the caller's stays as it is
        self.model = fill(described(sizes), flatten(nnx.state(trained.module, nnx.Param)))
        self._forward = nnx.jit(MaskedPass(self.config).__call__)  # kept, so that it is compiled once

    @property
    def needs(self) -> Modality:
        """Returns the modalities that clips must have."""
        return cast(Modality, self.config.model.modality)

    def __call__(self, clip: Clip, seed: int) -> Inpainted:
        """Hides patches of a clip and fills them in.

        Args:
          clip: as in evaluation, the centre of its audio is used if that is too long, and its middle frame; of a model of pairs the audio
            around that.
          seed: decides the masks.

        Raises:
          ValueError: naming the clip, if it lacks what the model needs or its image is damaged.
        """
        sizes = self.config.model
        options = EvalOptions(needs=self.needs, pairs=self._pairs, one_pair=True)
        (made,) = views(clip, model=sizes, options=options, frames=1)
        batch = {name: value[None] for name, value in made.items() if name != "id"}
        out, inputs = jax.device_get(self._forward(self.model, batch, jax.random.key(seed)))
        panels = compose_all(out, inputs, batch, self.config)
        return Inpainted(panels, panels["audio"].held(0) if "audio" in panels else 0)

    def waveforms(self, found: Inpainted) -> Waveforms | None:
        """Converts the spectrogram of each stage to audio, as far as the clip reaches; None for a model of images alone.

        Raises:
          ValueError: if the model's predictions aren't finite, or too large to be audio.
        """
        if "audio" not in found.panels:
            return None
        panels = found.panels["audio"]
        mean, std = panels.scale(0)
        before, after = (
            panel[0, :, : found.frames, 0].T.astype(np.float64) * std + mean for panel in (panels.original, panels.reconstructed)
        )
        masked = np.where(panels.hidden[0, :, : found.frames].T, SILENCE, before)
        original, reconstructed, given = (mel_to_waveform(stage) for stage in (before, after, masked))
        peak = max(np.abs(original).max(), np.abs(reconstructed).max())
        gain = LOUDEST / peak if peak else 1.0
        return Waveforms(original * gain, reconstructed * gain, np.clip(given * gain, -1, 1))
