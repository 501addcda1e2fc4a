"""Compares files of the pretraining model of CAV-MAE."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from avmae_jax.config import LossConfig, ModelConfig
from avmae_jax.models.cavmae import CAVMAE, MODALITIES, Pretraining
from avmae_jax.weights import build, official_sizes
from parity.quantities import of_pass, quantities, total_loss
from parity.recorded.arrays import Arrays, GoldenError, inputs_of, part, require
from parity.recorded.tensors import EXACT
from parity.recorded.training import step_suffixes, training_rows
from parity.recorded.trials import best, digits_of, error_of, head_counts, typed
from parity.rows import OUTPUT_TOLERANCE, Row, compare

Inputs = tuple[dict[str, jax.Array], dict[str, jax.Array]]


class Recorded:
    """Holds a file and the model with its weights.

    Raises:
      GoldenError: if the file lacks an array without which nothing can be compared.
    """

    title = "pretraining model of CAV-MAE"
    needed = (
        "param.*", "in.audio", "in.image", "in.noise_audio", "in.noise_image", "out.latent", "out.pred_audio", "out.mask_audio",
        "out.mask_image", "out.loss_mae", "out.loss_mae_audio", "out.loss_mae_image", "out.loss_contrast_weighted",
    )  # fmt: skip
    exact: tuple[str, ...] = ()  # what begins the names of quantities that must be the same to the last bit

    def __init__(self, arrays: Arrays):
        require(arrays, self.title, self.needed)
        self.arrays, self.params = arrays, part(arrays, "param.")
        self.given = inputs_of(arrays["in.audio"], arrays["in.image"])
        self.config = self.find_model()
        self.model = self.build(self.config)
        self.loss = self.find_loss()

    def inputs(self, suffix: str = "") -> Inputs:
        """Returns the arguments of the model; `suffix` names the step whose noise is meant."""
        return self.given, {modality: jnp.asarray(self.arrays[f"in.noise_{modality}{suffix}"]) for modality in MODALITIES}

    def build(self, config: ModelConfig) -> Any:
        """Builds the JAX model with the file's weights."""
        return build.build_official(lambda: CAVMAE(config, rngs=build.AnyKey()), self.params)

    def find_model(self) -> ModelConfig:
        """Finds sizes from the weights and the masks, and heads and chaining by trial."""
        config = official_sizes.infer_sizes(self.params, heads=1, decoder_heads=1, mel_bins=self.given["audio"].shape[2])
        ratios = {f"{modality}_mask_ratio": self.mask_ratio(f"out.mask_{modality}") for modality in MODALITIES}
        config = dataclasses.replace(config, **ratios, learned_positions="grad.pos_embed_a" in self.arrays)
        config = self.try_field(config, "heads", head_counts(config.shape.width), "latent")
        config = self.try_field(config, "decoder_heads", head_counts(config.shape.decoder_width), "pred_audio")
        return self.find_chaining(config) if config.joint_depth > 1 else config

    def find_chaining(self, config: ModelConfig) -> ModelConfig:
        """Finds whether the contrastive streams run through all joint blocks or through the last one alone."""
        names = [name for name in ("contrast_audio_tokens", "cls_audio") if f"out.{name}" in self.arrays]
        if not names:
            raise GoldenError("it has several joint blocks, but out.contrast_audio_tokens, which shows how they are chained, is missing")
        return self.try_field(config, "unchained_contrastive", [True, False], names[0])

    def mask_ratio(self, name: str) -> float:
        """Returns a ratio that hides as many tokens as a recorded mask does."""
        hidden = self.arrays[name][0]
        # half a token more than is kept, so that rounding can't change the number
        return max(0.0, float(1 - ((1 - hidden).sum() + 0.5) / len(hidden)))

    def try_field(self, config: ModelConfig, field: str, values: list[Any], name: str) -> ModelConfig:
        """Finds the value of a field with which `out.<name>` of the masked pass comes out closest."""

        def error(candidate: ModelConfig) -> float:
            picked = lambda model, *inputs: of_pass(model(*inputs))[name]  # noqa: E731
            return error_of(self.build(candidate), picked, self.inputs(), self.arrays[f"out.{name}"])

        return best(config, field, values, error)

    def passes(self, model: Any, suffix: str = "") -> tuple[Pretraining, ...]:
        """Runs the masked passes of a step."""
        return (model(*self.inputs(suffix)),)

    def losses(self, passes: tuple[Pretraining, ...], loss: LossConfig) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes the total loss of a step, and its parts with the accuracy."""
        return total_loss(passes[0], self.given, loss, self.config.patch)

    def loss_options(self) -> list[dict[str, bool]]:
        """Lists the options among which the recorded contrastive loss decides."""
        return [{"bidirectional": option} for option in (False, True)]

    def find_loss(self) -> LossConfig:
        """Finds weights and options of the loss from the recorded parts."""
        passes = nnx.jit(self.passes)(self.model)
        recorded = {name: float(self.arrays[f"out.loss_{name}"]) for name in ("mae", "mae_audio", "mae_image", "contrast_weighted")}

        def parts(**options: Any) -> dict[str, float]:
            return {name: float(value) for name, value in self.losses(passes, LossConfig(**options))[1].items()}

        by_norm_pix = {option: abs(parts(norm_pix=option)["mae_audio"] - recorded["mae_audio"]) for option in (True, False)}
        candidates = [(options, parts(**options)) for options in self.loss_options()]

        def misfit(candidate: tuple[dict[str, bool], dict[str, float]]) -> tuple[bool, int]:
            accuracy = candidate[1]["contrast_accuracy"]
            recorded_accuracy = float(self.arrays.get("out.contrast_accuracy", accuracy))
            return abs(accuracy - recorded_accuracy) > OUTPUT_TOLERANCE, digits_of(recorded["contrast_weighted"] / candidate[1]["nce"])

        options, found = min(candidates, key=misfit)
        reconstruction = recorded["mae_audio"] + recorded["mae_image"]
        weights: dict[str, Any] = {
            "contrast_weight": typed(recorded["contrast_weighted"] / found["nce"]),
            "mae_weight": typed(recorded["mae"] / reconstruction) if reconstruction else 0.0,
        }
        return LossConfig(norm_pix=min(by_norm_pix, key=by_norm_pix.__getitem__), **options, **weights)

    def quantities(self) -> dict[str, Any]:
        """Computes every intermediate and every loss, by its recorded name."""
        return quantities(self.model, self.inputs(), self.loss, self.config.patch)

    def output_rows(self) -> Iterator[Row]:
        """Compares every intermediate and every loss; raises GoldenError for one that the model doesn't have."""
        ours = self.quantities()
        steps = {f"loss{suffix or '_step0'}" for suffix in step_suffixes(self.arrays)}  # of training_rows
        for name, reference in part(self.arrays, "out.").items():
            if name not in steps:
                if name not in ours:
                    raise GoldenError(
                        f"out.{name} is no quantity of the {self.title}, or its inputs are missing; take it out or record them"
                    )
                tolerance = EXACT if self.exact and name.startswith(self.exact) else OUTPUT_TOLERANCE
                yield compare(f"out.{name}", ours[name], reference, tolerance)

    def training_rows(self) -> Iterator[Row]:
        """Compares the gradients of the first step, the loss of each step, and the weights after those steps that the file holds."""
        return training_rows(self.arrays, self.model, self.config, self.total)

    def total(self, model: Any, suffix: str) -> jax.Array:
        """Computes the total loss of a step."""
        return self.losses(self.passes(model, suffix), self.loss)[0]

    def rows(self) -> list[Row]:
        """Compares everything that the file holds."""
        return [*self.output_rows(), *self.training_rows()]

    def notes(self) -> list[str]:
        """Describes what was found in the file or by trial."""
        config = self.config
        chaining = f", unchained_contrastive={config.unchained_contrastive}" if config.joint_depth > 1 else ""
        return [f"{self.title}: {config.shape}, joint_depth={config.joint_depth}{chaining}", f"loss: {self.loss}"]
