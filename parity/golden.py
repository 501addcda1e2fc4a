"""Compares the JAX model with a file of values recorded from the original: `python -m parity.golden FILE.npz`.

A file has weights (`param.<official name>`), inputs with their masking noise (`in.*`), every intermediate and loss (`out.*`),
gradients (`grad.<official name>`) and the weights after Adam steps (`after1.`, `after3.`). Sizes come from the weights. What no
array holds (number of heads, norm_pix, direction and weight of the contrastive loss, chaining of several joint blocks) is found by
trying the few possible values and taking the one that fits best; the choice is printed, and a wrong one can't pass, since gradients
and weights are compared afterwards.

One thing can't be compared after a step: the keys' bias. It shifts all logits of a query alike, so the softmax makes its gradient
exactly 0, and what torch and JAX have there is rounding noise (1e-10), which Adam divides by itself. Its gradient is compared (with
the whole qkv bias, whose norm the queries and values give); after steps only the queries' and values' parts of that bias are.

Exit status: 0 if every quantity is within its tolerance, 1 if one is not, 2 if the file can't be used.
"""

import argparse
import dataclasses
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from avmae_jax.config import LossConfig, ModelConfig, OptimConfig
from avmae_jax.models.cavmae import CAVMAE, Pretraining
from avmae_jax.models.tokens import join
from avmae_jax.train import losses, optim
from avmae_jax.trees import flatten
from avmae_jax.weights import build, official, official_sizes
from parity.rows import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, Row, compare, print_table

ADAM = OptimConfig(learning_rate=1e-3)  # the steps in the files were made with this rate and the recipe's other values

Arrays = Mapping[str, Any]


class GoldenError(ValueError):
    """The file can't be checked; the message says what is wrong with it."""


class Golden:
    """Holds a golden file and the model with its weights."""

    def __init__(self, arrays: Arrays):
        self.arrays = arrays
        self.params = _strip(arrays, "param.")
        needed = ["in.audio", "in.image", "in.noise_audio", "in.noise_image", "out.latent", "out.pred_audio", "out.mask_audio"]
        missing = [name for name in needed if name not in arrays]
        if missing or not self.params:
            raise GoldenError(f"not a file of pretraining values: {', '.join(missing or ['param.*'])} missing")
        self.fbank = jnp.asarray(arrays["in.audio"])
        self.image = jnp.asarray(arrays["in.image"].transpose(0, 2, 3, 1))
        self.config = self._find_model()
        self.model = self.build(self.config)
        self.loss = self._find_loss()

    def inputs(self, suffix: str = "") -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Returns the arguments of the model; `suffix` names the step whose noise is meant."""
        noise = {modality: jnp.asarray(self.arrays[f"in.noise_{modality}{suffix}"]) for modality in ("audio", "image")}
        return {"audio": self.fbank, "image": self.image}, noise

    def build(self, config: ModelConfig) -> CAVMAE:
        """Builds the JAX model with the file's weights."""
        return build.build_official(lambda: CAVMAE(config, rngs=build.AnyKey()), self.params)

    def _error(self, config: ModelConfig, name: str, pick: Callable[[Pretraining], jax.Array]) -> float:
        graph, weights = nnx.split(self.build(config))
        once = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiling takes longest
        trial = jax.jit(lambda weights, inputs: pick(nnx.merge(graph, weights)(*inputs)), compiler_options=once)
        out = trial(weights, self.inputs())
        return compare(name, out, self.arrays[f"out.{name}"], OUTPUT_TOLERANCE).relative

    def _find_model(self) -> ModelConfig:
        """Finds sizes from the weights and the masks, and heads and chaining by trial."""
        config = official_sizes.infer_sizes(self.params, heads=1, decoder_heads=1, mel_bins=self.fbank.shape[2])
        # half a token more than is kept, so that rounding can't change the number
        ratios = {
            m: 1 - ((1 - self.arrays[f"out.mask_{m}"][0]).sum() + 0.5) / self.arrays[f"out.mask_{m}"].shape[1] for m in ("audio", "image")
        }
        config = dataclasses.replace(
            config,
            audio_mask_ratio=max(0.0, float(ratios["audio"])),
            image_mask_ratio=max(0.0, float(ratios["image"])),
            learned_positions="grad.pos_embed_a" in self.arrays,
        )
        config = self._best(config, "heads", _divisors(config.shape.width), "latent", lambda out: join(out.latent))
        config = self._best(
            config, "decoder_heads", _divisors(config.shape.decoder_width), "pred_audio", lambda out: out.predictions["audio"]
        )
        if config.joint_depth > 1:
            config = self._best(
                config, "unchained_contrastive", [True, False], "contrast_audio_tokens", lambda out: join(out.contrast["audio"])
            )
        return config

    def _best(self, config: ModelConfig, field: str, values: list[Any], name: str, pick: Callable[[Pretraining], jax.Array]) -> ModelConfig:
        """Finds the value of a field with which `name` comes out closest; stops at the first that is within tolerance."""
        errors = {}
        for value in values:
            candidate = dataclasses.replace(config, **{field: value})
            errors[value] = self._error(candidate, name, pick)
            if errors[value] <= OUTPUT_TOLERANCE:
                break
        return dataclasses.replace(config, **{field: min(errors, key=errors.__getitem__)})

    def _find_loss(self) -> LossConfig:
        """Finds weights and options of the loss from the recorded parts."""
        out = self.run()
        recorded = {
            name: float(self.arrays[f"out.{name}"]) for name in ("loss_mae", "loss_mae_audio", "loss_mae_image", "loss_contrast_weighted")
        }

        def parts(**options: bool) -> dict[str, float]:
            config = LossConfig(**options)  # pyright: ignore[reportArgumentType]
            return {name: float(value) for name, value in self.losses(out, config)[1].items()}

        by_norm_pix = {option: abs(parts(norm_pix=option)["mae_audio"] - recorded["loss_mae_audio"]) for option in (True, False)}
        directions = {option: parts(bidirectional=option) for option in (False, True)}
        weights = {option: _round(recorded["loss_contrast_weighted"] / part["nce"]) for option, part in directions.items()}

        def misfit(option: bool) -> tuple[bool, float]:
            part, weight = directions[option], recorded["loss_contrast_weighted"] / directions[option]["nce"]
            accuracy = float(self.arrays.get("out.contrast_accuracy", part["contrast_accuracy"]))
            return abs(part["contrast_accuracy"] - accuracy) > OUTPUT_TOLERANCE, abs(weight - _round(weight, 2))

        bidirectional = min(directions, key=misfit)
        reconstruction = recorded["loss_mae_audio"] + recorded["loss_mae_image"]
        return LossConfig(
            norm_pix=min(by_norm_pix, key=by_norm_pix.__getitem__),
            bidirectional=bidirectional,
            contrast_weight=weights[bidirectional],
            mae_weight=_round(recorded["loss_mae"] / reconstruction) if reconstruction else 0.0,
        )

    def run(self) -> Pretraining:
        """Runs the masked pass on the file's inputs."""
        return nnx.jit(CAVMAE.__call__)(self.model, *self.inputs())

    def losses(self, out: Pretraining, config: LossConfig | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes the losses of an output on the file's inputs."""
        return total_loss(out, self.inputs()[0], config or self.loss, self.config.patch)

    def output_rows(self) -> Iterator[Row]:
        """Compares every intermediate and every loss."""
        ours = quantities(self.model, self.inputs(), self.loss, self.config.patch)
        for name, reference in _strip(self.arrays, "out.").items():
            if not name.startswith("loss_step"):
                if name not in ours:
                    raise GoldenError(f"out.{name} is no quantity of the pretraining model")
                yield compare(f"out.{name}", ours[name], reference, OUTPUT_TOLERANCE)

    def training_rows(self) -> Iterator[Row]:
        """Compares the gradients of the first step, the loss of each step, and the weights after those steps that the file holds."""
        graph, weights, rest = nnx.split(self.model, optim.trainable(self.config), ...)
        shapes = {path: value.shape for path, value in flatten(weights).items()}
        optimizer = optim.adam(ADAM, optim.learning_rate(ADAM, steps_per_epoch=1_000))

        def total(weights: Any, inputs: Any) -> jax.Array:
            return self.losses(nnx.merge(graph, weights, rest)(*inputs))[0]

        def step(weights: Any, moments: Any, inputs: Any) -> Any:
            loss, gradients = jax.value_and_grad(total)(weights, inputs)
            updates, moments = optimizer.update(gradients, moments, weights)
            return optax.apply_updates(weights, updates), moments, loss, gradients

        step, moments = jax.jit(step), optimizer.init(weights)
        last = max((int(name[len("after")]) for name in self.arrays if name.startswith("after")), default=1)
        for index in range(last):
            suffix = f"_step{index}" if index else ""
            weights, moments, loss, gradients = step(weights, moments, self.inputs(suffix))
            if index == 0:
                yield from self._tensor_rows("grad.", gradients, shapes)
            if f"out.loss_step{index}" in self.arrays:
                yield compare(f"out.loss_step{index}", loss, self.arrays[f"out.loss_step{index}"], OUTPUT_TOLERANCE)
            yield from self._tensor_rows(f"after{index + 1}.", weights, shapes)

    def _tensor_rows(self, prefix: str, ours: Any, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Row]:
        """Compares tensors by official name; norms that no pass uses and frozen positions never move and are left out."""
        flat = flatten(ours)
        recorded = _strip(self.arrays, prefix)
        names = {name: official.path_of(name) or f"unknown {name}" for name in recorded if not official.is_unused(name)}
        if recorded and (missing := set(shapes) - set(names.values())):
            raise GoldenError(f"{prefix} lacks {len(missing)} tensors, such as {min(missing)}")
        for name, path in names.items():
            if path not in shapes:
                continue
            mine, reference = np.asarray(flat[path]), official.convert_tensor(recorded[name], shapes[path])
            if prefix.startswith("after") and name.endswith(".attn.qkv.bias"):
                name, mine, reference = name + "[q, v]", mine[[0, 2]], reference[[0, 2]]
            yield compare(prefix + name, mine, reference, GRADIENT_TOLERANCE)

    def rows(self) -> list[Row]:
        """Compares everything that the file holds."""
        return [*self.output_rows(), *self.training_rows()]


def total_loss(out: Pretraining, inputs: Arrays, loss: LossConfig, patch: int, groups: int = 1) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the total loss of an output, and its parts with the accuracy; `groups` cut the batch for the contrastive loss."""
    parts, accuracy = losses.pretraining_losses(out, inputs, loss, patch=patch, groups=groups)
    return losses.weighted_sum(parts, losses.pretraining_weights(loss)), parts | accuracy


def quantities(model: CAVMAE, inputs: tuple[Any, Any], loss: LossConfig, patch: int, groups: int = 1) -> dict[str, jax.Array]:
    """Computes every intermediate and every loss of the JAX model, by its recorded name.

    Args:
      model: with any weights.
      inputs: the arguments of the model: inputs and noise, both by modality.
      loss: weights and options.
      patch: P.
      groups: see losses.contrastive_loss.
    """

    @nnx.jit
    def run(model: CAVMAE, inputs: tuple[Any, Any]) -> dict[str, jax.Array]:
        out = model(*inputs)
        total, parts = total_loss(out, inputs[0], loss, patch, groups)
        tokens = model.separate(inputs[0])
        by_modality = {
            f"{name}_{modality}{end}": value
            for modality in ("audio", "image")
            for name, end, value in (
                ("pred", "", out.predictions[modality]),
                ("contrast", "_tokens", join(out.contrast[modality])),
                ("mask", "", out.masks[modality].hidden),
                ("ids_restore", "", out.masks[modality].restore_ids),
                ("feat", "", join(model.encoder.joint(tokens, modality))),
            )
        }
        return by_modality | {
            "latent": join(out.latent),
            "loss": total,
            "loss_mae": loss.mae_weight * (parts["mae_audio"] + parts["mae_image"]),
            "loss_mae_audio": parts["mae_audio"],
            "loss_mae_image": parts["mae_image"],
            "loss_contrast_weighted": loss.contrast_weight * parts["nce"],
            "nce": parts["nce"],
            "contrast_accuracy": parts["contrast_accuracy"],
        }

    return run(model, inputs)


def load(path: Path) -> Golden:
    """Reads a golden file; nothing in it is executed. Raises GoldenError."""
    if not path.is_file():
        raise GoldenError("there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise GoldenError("not an .npz file of plain arrays") from error
    return Golden(arrays)


def _strip(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _divisors(width: int) -> list[int]:
    """Lists possible numbers of heads, heads of 64 channels first and then the nearest sizes: most models use those."""
    divisors = [heads for heads in range(1, width + 1) if width % heads == 0]
    return sorted(divisors, key=lambda heads: abs(np.log(width / heads / 64)))


def _round(value: float, digits: int = 4) -> float:
    """Rounds a weight to what somebody would have typed: the recorded loss gives it only to float32's rounding."""
    return float(f"{value:.{digits}g}")


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.golden", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="an .npz file of recorded values")
    path = parser.parse_args().file
    try:
        golden = load(path)
        rows = golden.rows()
    except ValueError as error:
        sys.stderr.write(f"{path}: {error}\n")
        return 2
    config = golden.config
    sizes = f"{config.shape}, joint_depth={config.joint_depth}, unchained_contrastive={config.unchained_contrastive}"
    print_table(rows, [f"model: {sizes}", f"loss: {golden.loss}"])
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
