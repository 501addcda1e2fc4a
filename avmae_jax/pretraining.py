"""The pretraining task: from a batch of bytes to the CAV-MAE loss, to pictures of reconstructions and to retrieval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from avmae_jax import losses, metrics, pictures
from avmae_jax.config import Config
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.frontend import model_inputs
from avmae_jax.data.pipeline import eval_batches
from avmae_jax.models.cavmae import CAVMAE, Pretraining
from avmae_jax.models.masking import sample_noise
from avmae_jax.step import Metrics

Arrays = Mapping[str, jax.Array]


class PretrainingTask:
    """The loss of CAV-MAE and the pictures of a run."""

    def __init__(self, config: Config, test: ClipSource | None, workdir: Path):
        """`test` are the held-out clips whose reconstructions are drawn into `workdir`/pictures; None draws nothing."""
        self.config, self._test, self._workdir = config, test, workdir
        self._examples: Any = None
        self._forward = nnx.jit(self.forward)  # kept, so that it is compiled once

    def forward(self, model: CAVMAE, batch: Arrays, key: jax.Array) -> tuple[Pretraining, jax.Array, jax.Array]:
        """The masked pass on a batch, with the inputs it saw; the key decides the masks."""
        settings = self.config.model
        fbank, image = model_inputs(batch, self.config)
        audio_key, image_key = jax.random.split(key)
        noise_audio = sample_noise(audio_key, len(fbank), settings.audio_grid, settings.audio_mask_ratio, settings.audio_mask_mode)
        noise_image = sample_noise(image_key, len(image), settings.image_grid, settings.image_mask_ratio)
        return model(fbank, image, noise_audio, noise_image), fbank, image

    def loss(self, model: CAVMAE, batch: Arrays, key: jax.Array, groups: int) -> tuple[jax.Array, Metrics]:
        """See train.Task."""
        out, fbank, image = self.forward(model, batch, key)
        groups = groups if self.config.loss.negatives == "shard" else 1
        return losses.pretraining_loss(out, fbank, image, self.config.loss, patch=self.config.model.patch, groups=groups)

    def draw(self, model: CAVMAE, step: int) -> None:
        """Reconstructions of four held-out clips, masked alike every time: pictures/reconstructions_<step>.png."""
        if self._test is None or jax.process_index():
            return
        if self._examples is None:
            self._examples = next(iter(eval_batches(self._test, self.config.model, self.config.data, 4, limit=4)))
        arrays = {name: value for name, value in self._examples.items() if name != "id"}
        out, fbank, image = jax.device_get(self._forward(model, arrays, jax.random.key(0)))
        folder = self._workdir / "pictures"
        folder.mkdir(exist_ok=True)
        pictures.reconstructions(
            folder / f"reconstructions_{step:07d}.png",
            images=image,
            pred_images=out.pred_image,
            hidden_images=out.mask_image.hidden,
            fbanks=fbank,
            pred_fbanks=out.pred_audio,
            hidden_fbanks=out.mask_audio.hidden,
            image_grid=self.config.model.image_grid,
            audio_grid=self.config.model.audio_grid,
            patch=self.config.model.patch,
            norm_pix=self.config.loss.norm_pix,
            titles=[str(name) for name in self._examples["id"]],
        )

    def embeddings(self, model: CAVMAE, batch: Arrays) -> tuple[jax.Array, jax.Array]:
        """What retrieval compares of each clip, unmasked: float32[B, D] of its sound and of its frame."""
        fbank, image = model_inputs(batch, self.config)
        return metrics.embedding(model.audio_features(fbank)), metrics.embedding(model.image_features(image))

    def retrieve(self, model: CAVMAE, clips: int, batch_size: int = 20) -> dict[str, float]:
        """Retrieval among `clips` held-out clips, unmasked, in both directions; {} without such clips.

        Returns:
          {"clips", "audio_to_image_r1", "image_to_audio_r1", ... "_r5", "_r10", "_median_rank", "_ties"}; R@k as shares in [0, 1].
        """
        if self._test is None or not clips:
            return {}
        clips = min(clips, len(self._test))
        if clips < self.config.train.retrieval_clips:
            logging.info("only %d held-out clips: retrieval is among these", clips)
        sounds, sights = [], []
        embed = nnx.jit(self.embeddings)
        for batch in eval_batches(self._test, self.config.model, self.config.data, batch_size, limit=clips):
            size = len(batch.pop("id"))
            padded = {name: jnp.asarray(np.resize(value, (batch_size, *value.shape[1:]))) for name, value in batch.items()}
            sound, sight = embed(model, padded)
            sounds.append(np.asarray(sound)[:size])
            sights.append(np.asarray(sight)[:size])
        audio, image = np.concatenate(sounds), np.concatenate(sights)
        results = {"clips": float(clips)}
        for name, found in {"audio_to_image": metrics.retrieval(audio, image), "image_to_audio": metrics.retrieval(image, audio)}.items():
            results |= {f"{name}_{field}": float(getattr(found, field)) for field in ("r1", "r5", "r10", "median_rank", "ties")}
        return results
