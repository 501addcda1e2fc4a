"""Compares the JAX model and the PyTorch reference with the same weights on the same inputs.

Weights go from the reference's state dict through the converter, so that a wrong name or layout can't pass.

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, L tokens, C classes.
"""

# pyright: reportMissingImports=false

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import nnx

from avmae_jax.config import LossConfig, ModelConfig, OptimConfig
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.masking import sample_noise
from avmae_jax.models.modes import MODES, Mode
from avmae_jax.train import optim
from avmae_jax.trees import flatten
from avmae_jax.weights import build, official
from parity import reference, reference_training
from parity.quantities import quantities, total_loss
from parity.rows import BFLOAT16_TOLERANCE, GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, Row, compare

State = Mapping[str, np.ndarray]
M = TypeVar("M", bound=torch.nn.Module)


class Inputs(NamedTuple):
    """One batch for both models."""

    fbank: np.ndarray  # float32[B, T, M], normalised
    image: np.ndarray  # float32[B, H, W, 3], normalised
    noise_audio: np.ndarray  # float32[B, La]
    noise_image: np.ndarray  # float32[B, Lv]

    def for_torch(self) -> list[torch.Tensor]:
        """Converts inputs to tensors, images with their channels first."""
        return [torch.tensor(x) for x in (self.fbank, self.image.transpose(0, 3, 1, 2), self.noise_audio, self.noise_image)]

    def for_jax(self) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Returns the same on JAX's device, as arguments of the model: inputs and noise by modality."""
        fbank, image, *noise = (jnp.asarray(x) for x in self)
        return {"audio": fbank, "image": image}, dict(zip(("audio", "image"), noise, strict=True))


def masking_noise(config: ModelConfig, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws noise for both modalities as the config's mask mode wants it."""
    audio_key, image_key = jax.random.split(jax.random.key(seed))
    audio = sample_noise(audio_key, batch, config.grid("audio"), config.audio_mask_ratio, config.audio_mask_mode)
    return np.asarray(audio), np.asarray(sample_noise(image_key, batch, config.grid("image"), config.image_mask_ratio))


def random_inputs(config: ModelConfig, batch: int, seed: int = 0) -> Inputs:
    """Draws normal numbers of the model's sizes."""
    rng = np.random.default_rng(seed)
    fbank = rng.standard_normal((batch, config.audio_frames, config.mel_bins)).astype(np.float32)
    image = rng.standard_normal((batch, config.image_size, config.image_size, 3)).astype(np.float32)
    return Inputs(fbank, image, *masking_noise(config, batch, seed))


def with_weights(make: Callable[[], M], state: State | None, seed: int = 0) -> M:
    """Builds a reference model with given weights, or with fresh ones to which noise is added, so that a swap of biases shows too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        if state is not None:
            model.load_state_dict({name: torch.tensor(tensor) for name, tensor in state.items()})
            return model
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(0.02 * torch.randn(weight.shape))
    return model


def state_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns {official name: array}, copied: an optimizer changes the reference's tensors in place, and JAX may share their memory."""
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


class Pretraining:
    """Both pretraining models.

    Args:
      config: sizes and options; `compute_dtype` is JAX's, PyTorch computes in float32.
      loss: weights and options.
      inputs: of one step.
      state: official weights; None: fresh ones, stirred.
      groups: see losses.contrastive_loss.
      seed: of fresh weights.
    """

    def __init__(
        self, config: ModelConfig, loss: LossConfig, inputs: Inputs, *, state: State | None = None, groups: int = 1, seed: int = 0
    ):
        self.config, self.loss, self.inputs, self.groups = config, loss, inputs, groups
        self.reference = with_weights(lambda: reference.CAVMAE(config), state, seed)
        self.model = build.build_official(lambda: CAVMAE(config, rngs=nnx.Rngs(0)), state_of(self.reference))
        self.rough = config.product_dtype != "float32"

    def _tolerance(self, exact: float) -> float:
        return BFLOAT16_TOLERANCE if self.rough else exact

    def _reference_losses(self, inputs: Inputs) -> tuple[reference.Pretraining, dict[str, torch.Tensor]]:
        fbank, image, *noise = inputs.for_torch()
        out = self.reference(fbank, image, *noise)
        return out, reference_training.pretraining_losses(out, fbank, image, self.loss, patch=self.config.patch, groups=self.groups)

    def output_rows(self) -> Iterator[Row]:
        """Compares every intermediate, every loss, and the features for retrieval."""
        ours = quantities(self.model, self.inputs.for_jax(), self.loss, self.config.patch, self.groups)
        with torch.no_grad():
            fbank, image, *_ = self.inputs.for_torch()
            out, parts = self._reference_losses(self.inputs)
            features = {"feat_audio": self.reference.audio_features(fbank), "feat_image": self.reference.image_features(image)}
        for name, tensor in (out._asdict() | parts | features).items():
            if name != "contrast_accuracy" or not self.rough:  # a hit or a miss, which rounding may turn
                yield compare(name, ours[name], tensor, self._tolerance(OUTPUT_TOLERANCE))

    def gradient_rows(self) -> Iterator[Row]:
        """Compares the gradient of the total loss by every parameter; in bfloat16 by all together, as rounding swamps small ones."""
        graph, weights, frozen = nnx.split(self.model, optim.trainable(self.config), ...)
        gradients = flatten(jax.jit(jax.grad(self._total(graph, frozen)))(weights, self.inputs.for_jax()))
        self.reference.zero_grad()
        self._reference_losses(self.inputs)[1]["loss"].backward()
        pairs = {name: (gradients[path], theirs) for name, path, theirs in self._official(gradients, "grad")}
        if self.rough:
            ours, theirs = (np.concatenate([np.ravel(pair[side]) for pair in pairs.values()]) for side in (0, 1))
            yield compare("grad", ours, theirs, BFLOAT16_TOLERANCE)
            return
        for name, (ours, theirs) in pairs.items():
            yield compare(f"grad.{name}", ours, theirs, GRADIENT_TOLERANCE)

    def step_rows(self, config: OptimConfig, steps: int, steps_per_epoch: int) -> Iterator[Row]:
        """Compares losses of some optimizer steps, each with its own masks, and the weights after them; changes the reference.

        The keys' part of each qkv bias isn't compared: parity/golden.py says why.
        """
        graph, weights, frozen = nnx.split(self.model, optim.trainable(self.config), ...)
        optimizer = optim.adam(config, optim.learning_rate(config, steps_per_epoch))
        total = self._total(graph, frozen)

        @jax.jit
        def step(weights: Any, moments: Any, inputs: Any) -> Any:
            loss, gradients = jax.value_and_grad(total)(weights, inputs)
            updates, moments = optimizer.update(gradients, moments, weights)
            return optax.apply_updates(weights, updates), moments, loss

        theirs = reference_training.adam(self.reference.parameters(), config)
        schedule, moments = reference_training.schedule(theirs, config), optimizer.init(weights)
        for index in range(steps):
            noise = masking_noise(self.config, len(self.inputs.fbank), seed=100 + index)
            inputs = Inputs(self.inputs.fbank, self.inputs.image, *noise)
            weights, moments, loss = step(weights, moments, inputs.for_jax())
            theirs.zero_grad()
            expected = self._reference_losses(inputs)[1]["loss"]
            expected.backward()
            theirs.step()
            if (index + 1) % steps_per_epoch == 0:
                schedule.step()
            yield compare(f"loss of step {index + 1}", loss, expected.detach(), self._tolerance(OUTPUT_TOLERANCE))
        after = flatten(weights)
        for name, path, tensor in self._official(after, "data"):
            ours, tensor = np.asarray(after[path]), np.asarray(tensor)
            if name.endswith(".attn.qkv.bias"):
                name, ours, tensor = f"{name}[q, v]", ours[[0, 2]], tensor[[0, 2]]
            yield compare(f"after {steps} steps: {name}", ours, tensor, self._tolerance(GRADIENT_TOLERANCE))

    def _total(self, graph: Any, frozen: Any) -> Any:
        def total(weights: Any, inputs: Any) -> jax.Array:
            out = nnx.merge(graph, weights, frozen)(*inputs)
            return total_loss(out, inputs[0], self.loss, self.config.patch, self.groups)[0]

        return total

    def _official(self, ours: Mapping[str, jax.Array], what: str) -> list[tuple[str, str, np.ndarray]]:
        """Yields (official name, our path, the reference's tensor in our layout) of each of our parameters."""
        theirs = dict(self.reference.named_parameters())
        names = {str(official.name_of(path)): path for path in ours}
        return [
            (name, path, official.convert_tensor(getattr(theirs[name], what).detach().numpy(), ours[path].shape))
            for name, path in names.items()
        ]


class Classification:
    """Both classifiers, in all modes; see Pretraining for the arguments. Targets are random."""

    def __init__(self, config: ModelConfig, classes: int, inputs: Inputs, *, state: State | None = None):
        self.config, self.inputs = config, inputs
        self.reference = with_weights(lambda: reference.CAVMAEClassifier(config, classes), state)
        self.model = build.build_official(lambda: CAVMAEClassifier(config, classes, rngs=nnx.Rngs(0)), state_of(self.reference))
        self.targets = np.random.default_rng(1).integers(0, 2, (len(inputs.fbank), classes)).astype(np.float32)
        self.tolerance = BFLOAT16_TOLERANCE if config.product_dtype != "float32" else OUTPUT_TOLERANCE

    def logit_rows(self) -> Iterator[Row]:
        """Compares the logits of every mode."""
        inputs, _ = self.inputs.for_jax()
        for mode in MODES:
            ours = nnx.jit(CAVMAEClassifier.__call__, static_argnames="mode")(self.model, inputs, mode=mode)
            with torch.no_grad():
                yield compare(f"logits.{mode}", ours, self.reference(*self.inputs.for_torch()[:2], mode.name), self.tolerance)

    def gradient_rows(self, mode: Mode) -> Iterator[Row]:
        """Compares binary cross-entropy of a mode and its gradient by every parameter that the mode uses."""

        def loss(model: CAVMAEClassifier, inputs: Any) -> jax.Array:
            return optax.sigmoid_binary_cross_entropy(model(inputs, mode), jnp.asarray(self.targets)).mean()

        value, gradients = nnx.jit(nnx.value_and_grad(loss))(self.model, self.inputs.for_jax()[0])
        self.reference.zero_grad()
        expected = F.binary_cross_entropy_with_logits(self.reference(*self.inputs.for_torch()[:2], mode.name), torch.tensor(self.targets))
        expected.backward()
        yield compare(f"bce.{mode}", value, expected.detach(), self.tolerance)
        theirs = {name: weight.grad for name, weight in self.reference.named_parameters()}
        for path, ours in flatten(gradients).items():
            gradient = theirs[str(official.name_of(path))]
            tensor = np.zeros(ours.shape) if gradient is None else official.convert_tensor(gradient.numpy(), ours.shape)
            yield compare(f"grad.{mode}.{path}", ours, tensor, GRADIENT_TOLERANCE)


def small(**changes: Any) -> ModelConfig:
    """Returns a config of odd token counts and a non-square grid: 3 x 5 audio patches, 3 x 3 image patches."""
    sizes: dict[str, Any] = {
        "depth": 3, "width": 32, "heads": 4, "decoder_depth": 2, "decoder_width": 16, "decoder_heads": 2,
        "mel_bins": 48, "audio_frames": 80, "image_size": 48,
    }  # fmt: skip
    return dataclasses.replace(ModelConfig(), **(sizes | changes))
