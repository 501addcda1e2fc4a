"""Defines the second masked pass of the dual path (Wang et al., arXiv 2604.08147), which the contrastive loss is computed from.

Reconstruction wants most patches hidden, the contrast fewer. So the same weights see the same inputs twice, with masks of their own.
Which patches the second pass sees is drawn at random, or follows a teacher: averaged weights that see every patch. How the authors choose
patches by the teacher, how they average it and how they distil from it isn't published; what is done here is this project's reading.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from avmae_jax.inference.masked import MaskedPass
from avmae_jax.models.cavmae import MODALITIES
from avmae_jax.models.guidance import patch_scores
from avmae_jax.models.pooling import pool, unit_length
from avmae_jax.models.rows import fold_in
from avmae_jax.train import optim
from avmae_jax.train.step import Context, Metrics

TEACHER = "teacher"  # of State.extra
_SECOND = 0x73656364  # far from the small numbers by which a step's key is split for the masks
_WARM = 10  # steps over which the average begins: (1 + step) / (10 + step) of the old weights stays, up to the momentum


class ContrastPass:
    """Runs the second pass of a pretraining step."""

    def __init__(self, masked: MaskedPass, trainable: Any):
        """Keeps what draws masks, and the nnx filter of the parameters that are trained, which the teacher has averages of."""
        self._masked, self._config, self._trainable = masked, masked.config, trainable

    def averaged(self, teacher: Any, params: Any, step: jax.Array) -> Any:
        """Computes the teacher's weights after a step, counted from 0."""
        done = jnp.asarray(step).astype(jnp.float32)
        momentum = jnp.minimum(self._config.loss.teacher_momentum, (1.0 + done) / (_WARM + done))
        return optim.averaged(teacher, params, momentum)

    def __call__(self, model: Any, inputs: Mapping[str, jax.Array], pairs: int, context: Context) -> tuple[Any, Metrics]:
        """Runs the pass.

        Args:
          model: of the first pass.
          inputs: its inputs, whose rows are pairs.
          pairs: of each clip.
          context: of the step.

        Returns:
          The result of the masked pass, and the loss "distill" by name where there is one.
        """
        loss, key = self._config.loss, fold_in(context.key, _SECOND)
        seen = self._teach(model, inputs, context.extra[TEACHER]) if loss.needs_teacher else {}
        noise = seen["noise"] if loss.contrast_order == "attention" else self._masked.noise(inputs, key, pairs, structured=False)
        out = model(inputs, noise, context.drop_key, dict.fromkeys(MODALITIES, self._config.model.contrast_mask_ratio))
        if not loss.distill_weight:
            return out, {}
        student = {"audio": out.embed_audio, "image": out.embed_image}
        return out, {"distill": jnp.stack([cosine_distance(student[m], seen["vectors"][m]) for m in MODALITIES]).mean()}

    def _teach(self, model: Any, inputs: Mapping[str, jax.Array], weights: Any) -> dict[str, dict[str, jax.Array]]:
        """Runs the teacher on all patches: "noise" whose smallest values are the highest scores, and "vectors" of each modality."""
        graph, _, others = nnx.split(model, self._trainable, ...)
        teacher: Any = nnx.merge(graph, weights, others)
        encoder, unchained = teacher.encoder, teacher.unchained_contrastive
        tokens = encoder.separate(inputs)
        streams = {m: encoder.joint(tokens, m, unchained=unchained) for m in MODALITIES}
        found = {"vectors": {m: pool(stream, encoder.pooling) for m, stream in streams.items()}}
        if self._config.loss.contrast_order == "attention":
            found["noise"] = {m: -patch_scores(encoder, tokens, m, unchained=unchained) for m in MODALITIES}
        return jax.lax.stop_gradient(found)


def cosine_distance(student: Float[Array, "B D"], teacher: Float[Array, "B D"]) -> Float32[Array, ""]:
    """Computes the mean of 1 - cosine over the rows."""
    return 1 - (unit_length(student) * unit_length(teacher)).sum(axis=-1).mean()
