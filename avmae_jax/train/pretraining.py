"""The pretraining task: from a batch of bytes to the CAV-MAE loss, to pictures of reconstructions and to retrieval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx

from avmae_jax.config import Config, ModelConfig
from avmae_jax.data.batches import EvalOptions, eval_batches
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.frontend import model_inputs
from avmae_jax.evals import metrics
from avmae_jax.inference.embed import vectors
from avmae_jax.inference.forward import Forward
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.mae import MAE
from avmae_jax.models.masking import sample_noise
from avmae_jax.models.patches import spectrogram_picture
from avmae_jax.plots import reconstructions
from avmae_jax.train import losses
from avmae_jax.train.step import Metrics
from avmae_jax.train.task import Task

Arrays = Mapping[str, jax.Array]


class PretrainingTask(Task):
    """The loss of CAV-MAE and the pictures of a run."""

    def __init__(self, config: Config, test: ClipSource | None, workdir: Path):
        """`test` are the held-out clips whose reconstructions are drawn into `workdir`/pictures; None draws nothing."""
        super().__init__(config)
        self._test, self._workdir = test, workdir
        self._examples: Any = None
        self._forward = nnx.jit(self.forward)  # kept, so that it is compiled once

    def noise(self, modality: str, batch: int, key: jax.Array) -> jax.Array:
        """Masking noise as the config wants it: float32[B, L]."""
        model = self.config.model
        ratio, mode = (model.audio_mask_ratio, model.audio_mask_mode) if modality == "audio" else (model.image_mask_ratio, "unstructured")
        return sample_noise(key, batch, model.grid(modality), ratio, mode)

    def forward(self, model: Any, batch: Arrays, key: jax.Array) -> tuple[Any, Any, Any]:
        """The masked pass on a batch, with the inputs it saw, see model_inputs; the key decides the masks."""
        fbank, image = model_inputs(batch, self.config)
        audio_key, image_key = jax.random.split(key)
        return model(fbank, image, self.noise("audio", len(fbank), audio_key), self.noise("image", len(image), image_key)), fbank, image

    def loss(self, model: Any, batch: Arrays, key: jax.Array, groups: int) -> tuple[jax.Array, Metrics]:
        """See Task."""
        out, fbank, image = self.forward(model, batch, key)
        groups = groups if self.config.loss.negatives == "shard" else 1
        return losses.pretraining_loss(out, fbank, image, self.config.loss, patch=self.config.model.patch, groups=groups)

    def predictions(self, out: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What a masked pass predicts of each modality, and which patches were hidden."""
        return {"image": (out.pred_image, out.mask_image.hidden), "audio": (out.pred_audio, out.mask_audio.hidden)}

    def draw(self, model: Any, step: int) -> None:
        """Reconstructions of four held-out clips, masked alike every time: pictures/reconstructions_<step>.png."""
        if self._test is None or jax.process_index():
            return
        if self._examples is None:
            self._examples = next(iter(eval_batches(self._test, self.config.model, self.config.data, 4, EvalOptions(limit=4))))
        arrays = {name: value for name, value in self._examples.items() if name != "id"}
        out, fbank, image = jax.device_get(self._forward(model, arrays, jax.random.key(0)))
        shown = {"image": image} if fbank is None else {"image": image, "audio": np.asarray(spectrogram_picture(fbank))}
        sizes, norm_pix = self.config.model, self.config.loss.norm_pix
        panels = {
            name: reconstructions.compose(shown[name], pred, hidden, grid=sizes.grid(name), patch=sizes.patch, norm_pix=norm_pix)
            for name, (pred, hidden) in self.predictions(out).items()
        }
        path = self._workdir / "pictures" / f"reconstructions_{step:07d}.png"
        reconstructions.reconstructions(path, panels, [str(name) for name in self._examples["id"]], norm_pix=norm_pix)

    def embeddings(self, model: Any, batch: Arrays) -> tuple[jax.Array, jax.Array]:
        """What retrieval compares of each clip, unmasked: float32[B, D] of its sound and of its frame."""
        found = vectors(model.encoder, *model_inputs(batch, self.config), ("audio", "image"))
        return found["audio"], found["image"]

    def retrieve(self, model: Any, clips: int, batch_size: int = 20) -> dict[str, float]:
        """Retrieval among `clips` held-out clips, unmasked, in both directions; {} without such clips.

        Returns:
          {"clips", "audio_to_image_r1", "image_to_audio_r1", ... "_r5", "_r10", "_median_rank", "_ties"}; R@k as shares in [0, 1].
        """
        if self._test is None or not clips:
            return {}
        clips = min(clips, len(self._test))
        if clips < self.config.train.retrieval_clips:
            logging.info("only %d held-out clips: retrieval is among these", clips)
        batches = eval_batches(self._test, self.config.model, self.config.data, batch_size, EvalOptions(limit=clips))
        sounds, sights = zip(*(found for _, found in Forward(self.embeddings, batch_size)(model, batches)), strict=True)
        audio, image = np.concatenate(sounds), np.concatenate(sights)
        results = {"clips": float(clips)}
        for name, found in {"audio_to_image": metrics.retrieval(audio, image), "image_to_audio": metrics.retrieval(image, audio)}.items():
            results |= {f"{name}_{field}": float(getattr(found, field)) for field in ("r1", "r5", "r10", "median_rank", "ties")}
        return results


class SingleModalityTask(PretrainingTask):
    """The loss of the masked autoencoder of one modality, and its pictures."""

    def forward(self, model: Any, batch: Arrays, key: jax.Array) -> tuple[Any, Any, Any]:
        """As PretrainingTask."""
        fbank, image = model_inputs(batch, self.config)
        inputs = fbank if self.config.model.modality == "audio" else image
        return model(inputs, self.noise(self.config.model.modality, len(inputs), key)), fbank, image

    def loss(self, model: Any, batch: Arrays, key: jax.Array, groups: int) -> tuple[jax.Array, Metrics]:
        """See Task; the mean is over the hidden patches of all devices, whatever `groups`."""
        out, fbank, image = self.forward(model, batch, key)
        picture = spectrogram_picture(fbank) if self.config.model.modality == "audio" else image
        patch, norm_pix = self.config.model.patch, self.config.loss.norm_pix
        loss = losses.reconstruction_loss(picture, out.pred, out.mask.hidden, patch=patch, norm_pix=norm_pix)
        return loss, {"loss": loss, f"mae_{self.config.model.modality}": loss}

    def predictions(self, out: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """As PretrainingTask."""
        return {self.config.model.modality: (out.pred, out.mask.hidden)}

    def retrieve(self, model: Any, clips: int, batch_size: int = 20) -> dict[str, float]:
        """Nothing: one modality finds no other."""
        return {}


def make_model(config: ModelConfig, seed: int) -> CAVMAE | MAE:
    """The pretraining model that the config's modality asks for, freshly initialised."""
    return (CAVMAE if config.modality == "both" else MAE)(config, rngs=nnx.Rngs(seed))


def make_task(config: Config, test: ClipSource | None, workdir: Path) -> PretrainingTask:
    """The pretraining task that the config's modality asks for."""
    return (PretrainingTask if config.model.modality == "both" else SingleModalityTask)(config, test, workdir)
