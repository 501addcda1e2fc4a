"""Defines the pretraining task: its losses, its figures of reconstructions, and retrieval among held-out clips."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.data.batches import EvalOptions, eval_batches
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.frontend import model_inputs
from avmae_jax.evals.pair_ranking import rank_pairs
from avmae_jax.evals.ranking import flat_figures, rank_both
from avmae_jax.inference.forward import Forward
from avmae_jax.inference.masked import MaskedPass, compose_all
from avmae_jax.models.registry import kind_of
from avmae_jax.plots import curves, reconstructions
from avmae_jax.train import hosts
from avmae_jax.train.contrast_pass import TEACHER, ContrastPass
from avmae_jax.train.logbook import METRICS_FILE
from avmae_jax.train.losses import contrasted, contrastive_losses, pretraining_weights, reconstruction_losses
from avmae_jax.train.negatives import choices
from avmae_jax.train.step import Context, Metrics
from avmae_jax.train.task import Task

Arrays = Mapping[str, jax.Array]


class PretrainingTask(Task):
    """Trains a masked autoencoder, with a contrastive loss where it has both modalities."""

    def __init__(self, config: Config, test: ClipSource | None, workdir: Path):
        """Compiles nothing yet.

        Args:
          config: of the run.
          test: held-out clips whose reconstructions are drawn; None: nothing is drawn.
          workdir: the run's folder; figures go into its folder pictures.
        """
        super().__init__(config)
        self._test, self._workdir = test, workdir
        self._examples: Any = None
        self._masked = MaskedPass(config)
        self._forward = nnx.jit(self._masked.__call__)  # kept, so that it is compiled once
        self._contrasts = bool(kind_of(config.model).vectors)
        has_second = self._contrasts and config.loss.contrast_pass
        self._second = ContrastPass(self._masked, self.trainable()) if has_second else None

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Returns the weights of the config."""
        return pretraining_weights(self.config.loss)

    def losses(self, model: Any, batch: Arrays, context: Context) -> tuple[Metrics, Metrics]:
        """Computes the losses of a masked pass; reconstruction losses are means over the hidden patches of all devices."""
        losses, vectors = self.own_losses(model, batch, context)
        if not self._contrasts:
            return losses, {}
        compared, metrics = self.compared(vectors, context.groups)
        return losses | compared, metrics

    @property
    def comparing(self) -> "PretrainingTask | None":
        """Returns itself if the contrastive loss has the negatives of the whole batch, however it is computed."""
        return self if self._contrasts and self.config.loss.negatives == "global" else None

    def own_losses(self, model: Any, batch: Arrays, context: Context) -> tuple[Metrics, dict[str, jax.Array]]:
        """Computes the reconstruction losses of a masked pass, and the vectors that the contrastive loss compares: float32[B, D]."""
        inputs, pairs = self._masked.rows(batch, context.own_rows)
        out = model(inputs, self._masked.noise(inputs, context.key, pairs), context.drop_key)
        losses = reconstruction_losses(out, inputs, self.config.loss, patch=self.config.model.patch)
        if not self._contrasts:
            return losses, {}
        if self._second is not None:
            out, further = self._second(model, inputs, pairs, context)
            losses |= further
        vectors = contrasted(out, self.config.loss)
        return losses, {name: rows.reshape(-1, pairs, rows.shape[1]) if pairs > 1 else rows for name, rows in vectors.items()}

    def compared(self, vectors: Mapping[str, jax.Array], groups: int) -> tuple[Metrics, Metrics]:
        """Computes the contrastive loss of a batch, and its accuracy."""
        shared = groups if self.config.loss.negatives == "shard" else 1
        return contrastive_losses(vectors, self.config.loss, groups=shared)

    def init_extra(self, params: Any) -> Any:
        """Returns the averaged weights, and the teacher's where there is one."""
        return super().init_extra(params) | ({TEACHER: params} if self._second and self.config.loss.needs_teacher else {})

    def update_extra(self, extra: Any, params: Any, step: jax.Array) -> Any:
        """Computes the averaged weights, and the teacher's, after a step."""
        extra = super().update_extra(extra, params, step)
        if TEACHER not in extra or self._second is None:
            return extra
        return extra | {TEACHER: self._second.averaged(extra[TEACHER], params, step)}

    def negatives(self, micro_batch: int, groups: int) -> int:
        """Returns the number of pairs among which the contrastive loss chooses; 0 without one."""
        if not self._contrasts:
            return 0
        of = {"global": self.config.train.batch_size, "micro_batch": micro_batch, "shard": micro_batch // groups}
        return choices(of[self.config.loss.negatives], self.config)

    def draw(self, model: Any, step: int) -> Path | None:
        """Draws pictures/reconstructions_<step>.png: four held-out clips, with the same masks every time."""
        if self._test is None:
            return None
        model = hosts.local(model)
        if not hosts.is_first():
            return None
        if self._examples is None:
            options = EvalOptions(limit=4, pairs=self.pairs, one_pair=True)
            self._examples = next(iter(eval_batches(self._test, self.config.model, self.config.data, 4, options)))
        arrays = {name: value for name, value in self._examples.items() if name != "id"}
        out, inputs = jax.device_get(self._forward(model, arrays, jax.random.key(0)))
        panels = compose_all(out, inputs, arrays, self.config)
        path = self._workdir / "pictures" / f"reconstructions_{step:07d}.png"
        titles = [str(name) for name in self._examples["id"]]
        reconstructions.reconstructions(path, panels, titles, norm_pix=self.config.loss.norm_pix)
        return path

    def ended(self, negatives: int) -> None:
        """Draws pictures/loss_curves.png."""
        if not hosts.is_first():
            return
        path = self._workdir / "pictures" / "loss_curves.png"
        curves.loss_curves(path, self._workdir / METRICS_FILE, batch_size=negatives)

    def summary(self, model: Any) -> dict[str, Any]:
        """Computes "retrieval", see retrieve."""
        return {"retrieval": self.retrieve(model, self.config.train.retrieval_clips)}

    def retrieve(self, model: Any, clips: int, batch_size: int = 20) -> dict[str, float]:
        """Computes retrieval among `clips` held-out clips, unmasked, in both directions; {} without such clips or with one modality.

        Returns:
          {"clips", "audio_to_image_r1", "image_to_audio_r1", ... "_r5", "_r10", "_median_rank", "_ties"}; R@k as shares in [0, 1]. For a
          model of pairs these compare all pairs of a clip (pair_ranking's diagonal_mean), and "one_audio_to_image_r1" and so on the middle
          one alone.
        """
        if self._test is None or not clips or not self._contrasts:
            return {}
        clips = min(clips, len(self._test))
        if clips < self.config.train.retrieval_clips:
            logging.info("only %d held-out clips: retrieval is among these", clips)

        def vectors(model: Any, batch: Arrays) -> dict[str, jax.Array]:
            return model.embed(model_inputs(batch, self.config), ("audio", "image"))

        options = EvalOptions(limit=clips, only=hosts.share(clips), pairs=self.pairs)
        batches = eval_batches(self._test, self.config.model, self.config.data, batch_size, options)
        parts = [found for _, found in Forward(vectors, batch_size)(hosts.local(model), batches)]
        own = {kind: np.concatenate([part[kind] for part in parts]) for kind in ("audio", "image")} if parts else {}
        vectors_of_all = hosts.gather_rows(own)
        if not self.pairs:
            return flat_figures(rank_both(vectors_of_all))
        middle = {kind: rows[:, rows.shape[1] // 2] for kind, rows in vectors_of_all.items()}
        one = {f"one_{name}": value for name, value in flat_figures(rank_both(middle)).items() if name != "clips"}
        return flat_figures(rank_pairs(vectors_of_all)) | one
