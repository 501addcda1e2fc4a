"""Filling in hidden parts of clips with a pretraining model, to look at and to listen to.

Axis letters: T spectrogram frames, M mel bins, H W image, S samples.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax import nnx

from avmae_jax.config import Config, Modality
from avmae_jax.data.clip import Clip
from avmae_jax.data.fbank import num_frames
from avmae_jax.inference.embed import row_of
from avmae_jax.inference.griffin_lim import mel_to_waveform
from avmae_jax.inference.panels import Panels, compose
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.mae import MAE
from avmae_jax.models.patches import spectrogram_picture
from avmae_jax.train.pretraining import make_task
from avmae_jax.weights.trained import Trained

LOUDEST = 0.9  # of full scale: the peak of the louder one of a clip's two sounds


class Inpainted(NamedTuple):
    """A clip whose hidden patches are filled in."""

    panels: dict[str, Panels]  # under "image" and "audio", or one of these; one clip each
    sounding: int  # spectrogram frames that belong to the clip, at most T; 0 where the model has no sound


class Sounds(NamedTuple):
    """A clip's sound before and after, both through Griffin-Lim, so that what the model loses can be told from what Griffin-Lim loses."""

    original: np.ndarray  # float64[S] in [-0.9, 0.9], of the unmasked log-mel
    reconstructed: np.ndarray  # float64[S], with the same gain


class Inpainter:
    """A pretraining model that hides and fills in as it is told.

    Args:
      trained: a pretraining model of both modalities, or of one.
      masking: fields of ModelConfig that differ from the model's own: audio_mask_ratio, image_mask_ratio, audio_mask_mode.

    Raises:
      ValueError: if the model is a classifier, the masking can't be, or it is of a modality that the model lacks.
    """

    def __init__(self, trained: Trained, masking: Mapping[str, Any] | None = None):
        model = trained.model
        if not isinstance(model, CAVMAE | MAE):
            raise ValueError(
                f"{trained.path} is a classifier, which has no decoder to fill anything in; give the pretraining run it was made from"
            )
        own = trained.config.model.modality
        for name in masking or {}:
            if own not in ("both", name.split("_", maxsplit=1)[0]):
                raise ValueError(f"{name} is of no use: {trained.path} is a model of {own} alone; leave it out")
        sizes = dataclasses.replace(trained.config.model, **(masking or {}))
        sizes.validate()
        model = nnx.merge(*nnx.split(model))  # the caller's keeps its ratios; the arrays are the same
        if isinstance(model, CAVMAE):
            model.audio_mask_ratio, model.image_mask_ratio = sizes.audio_mask_ratio, sizes.image_mask_ratio
        else:
            model.mask_ratio = getattr(sizes, f"{sizes.modality}_mask_ratio")
        self.config: Config = dataclasses.replace(trained.config, model=sizes)
        self.model, self._task = model, make_task(self.config, None, Path())
        self._forward = nnx.jit(self._task.forward)  # kept, so that it is compiled once

    @property
    def needs(self) -> Modality:
        """What clips must have."""
        return cast(Modality, self.config.model.modality)

    def __call__(self, clip: Clip, seed: int) -> Inpainted:
        """Hides patches of a clip and fills them in.

        Args:
          clip: the centre of its sound, if that is longer than the model's, and the middle one of its frames are taken, as in evaluation.
          seed: decides the masks.

        Raises:
          ValueError: naming the clip, if it lacks what the model needs or its picture is damaged.
        """
        sizes = self.config.model
        made = row_of(clip, sizes, self.needs)
        batch = {name: value[None] for name, value in made.items() if name != "id"}
        out, fbank, image = jax.device_get(self._forward(self.model, batch, jax.random.key(seed)))
        shown = {"image": image, "audio": None if fbank is None else np.asarray(spectrogram_picture(fbank))}
        panels = {
            name: compose(shown[name], pred, hidden, grid=sizes.grid(name), patch=sizes.patch, norm_pix=self.config.loss.norm_pix)
            for name, (pred, hidden) in self._task.predictions(out).items()
        }
        sounding = 0 if fbank is None else min(sizes.audio_frames, int(num_frames(made["samples"])))
        return Inpainted(panels, sounding)

    def sounds(self, found: Inpainted) -> Sounds | None:
        """The sound of a clip before and after, as far as the clip reaches; None where the model has no sound.

        Raises:
          ValueError: if the model's predictions aren't finite, or too large to be sound.
        """
        if "audio" not in found.panels:
            return None
        data, panels = self.config.data, found.panels["audio"]
        before, after = (
            mel_to_waveform(picture[0, :, : found.sounding, 0].T.astype(np.float64) * data.audio_std + data.audio_mean)
            for picture in (panels.original, panels.reconstructed)
        )
        peak = max(np.abs(before).max(), np.abs(after).max())
        gain = LOUDEST / peak if peak else 1.0
        return Sounds(before * gain, after * gain)
