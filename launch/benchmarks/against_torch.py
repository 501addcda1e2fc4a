"""Compares JAX with the PyTorch reference in time and memory, at three jobs: `--against torch`.

Both sides have the same weights and inputs, float32, and all cores of the CPU. Their results are compared after every step, so that
neither is fast by doing something else. Peak memory is that of a new process that runs one side alone.

Speed varies from machine to machine, and from minute to minute. So a matrix product takes turns with the two sides. It has the job's own
sizes: those of the first product of an MLP, in the stack of blocks that does most of the arithmetic. Each side's speed is also printed as a
share of the product's. Both sides are credited with the arithmetic of the formula in train/memory.py, whatever they leave out or repeat.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.models import registry
from avmae_jax.models.layers import Stage
from avmae_jax.models.modes import MULTIMODAL, Mode, find_mode
from avmae_jax.models.tokens import join
from avmae_jax.train import losses, memory, optim
from avmae_jax.train.program import CompiledOnce
from avmae_jax.train.step import Context, Metrics, State, compiler_options, make_step
from avmae_jax.weights import build

from .measuring import Run, Turns, peak_alone, ratio, show, take_turns

JOBS = {"pretraining": "pretraining step", "finetuning": "fine-tuning step", "features": "feature extraction"}
SIDES = {"JAX": __name__, "PyTorch": "parity.torch_side"}  # modules; each has prepare(job, config, batch)
_CLASSES = 527  # AudioSet's
_TOLERANCE = 1e-4  # of losses and features
_PRODUCT = "matrix product"  # what takes turns with the two sides
_PRODUCT_SHARE = 0.05  # of the job's arithmetic that is done in a turn of the product

Arrays = Mapping[str, np.ndarray]


def compare_job(job: str, config: Config, steps: int) -> tuple[dict[str, Turns], dict[str, float]]:
    """Returns the cost of each step of a job, and the peak memory in GiB, by side; the cost of matrix products is among the former.

    Raises:
      ValueError: if JAX isn't on the CPU or computes in half precision, the results differ, or a process fails.
      ImportError: if PyTorch is missing.
    """
    from parity import rows, torch_side  # PyTorch is optional

    if jax.default_backend() != "cpu":
        raise ValueError(f"JAX runs on the {jax.default_backend()}, the reference on the CPU; set JAX_PLATFORMS=cpu")
    if config.model.product_dtype != "float32":
        raise ValueError(f"model.compute_dtype is {config.model.compute_dtype}; the reference needs float32")

    def check(results: Mapping[str, Any]) -> None:
        for ours, theirs in zip(results["JAX"], results["PyTorch"], strict=True):
            if not (row := rows.compare(job, ours, theirs, _TOLERANCE)).ok:
                raise ValueError(f"{job}, {config.name}: JAX and PyTorch differ by {row.relative:.1e}, more than {_TOLERANCE:.0e}")

    batch = random_batch(config)
    peaks = {side: peak_alone(module, job, config, batch) for side, module in SIDES.items()}
    ours = prepare(job, config, batch, torch_side.initial_weights(job, config, batch))
    sides = {"JAX": ours, "PyTorch": torch_side.prepare(job, config, batch), _PRODUCT: Product.of(job, config).run()}
    return take_turns(sides, steps, check), peaks


class Product(NamedTuple):
    """Describes the matrix products that take turns with a job: [rows, shared] times [shared, columns], some times."""

    rows: int
    shared: int
    columns: int
    repeats: int

    @classmethod
    def of(cls, job: str, config: Config) -> Self:
        """Chooses the product of a job that does most of its arithmetic."""
        kind, modes = _arithmetic(job)
        counted = dataclasses.replace(config, model=dataclasses.replace(config.model, kind=kind))
        stages = [stage for mode in modes for stage in registry.kind_of(counted.model).stages(counted, mode)]

        def linear(stage: Stage) -> float:
            return stage.blocks * stage.tokens * stage.width**2

        largest = max(stages, key=linear)
        sizes = largest.tokens * config.train.batch_size, largest.width, int(largest.width * config.model.mlp_ratio)
        return cls(*sizes, repeats=math.ceil(_PRODUCT_SHARE * job_flops(job, config) / (2 * math.prod(sizes))))

    def __str__(self) -> str:
        return f"[{self.rows}, {self.shared}] x [{self.shared}, {self.columns}]"

    @property
    def flops(self) -> float:
        """Returns the floating-point operations of a turn."""
        return 2.0 * self.rows * self.shared * self.columns * self.repeats

    def run(self) -> Run:
        """Returns a function that does a turn: JAX's product, which is XLA's."""
        product, left, right = jax.jit(jnp.matmul), jnp.ones((self.rows, self.shared)), jnp.ones((self.shared, self.columns))

        def turn() -> None:
            for _ in range(self.repeats):
                product(left, right).block_until_ready()

        return turn


def _arithmetic(job: str) -> tuple[str, Sequence[Mode | None]]:
    """Returns the kind of model whose formula counts a job's arithmetic, and the modes that it goes through."""
    alone = [find_mode(name) for name in ("audioonly", "videoonly")]
    modes: dict[str, Sequence[Mode | None]] = {"pretraining": [None], "finetuning": [MULTIMODAL], "features": alone}
    return "cavmae" if job == "pretraining" else "cavmae_classifier", modes[job]


def job_flops(job: str, config: Config) -> float:
    """Computes the floating-point operations that a job takes for a batch, by the formula of train/memory.py."""
    kind, modes = _arithmetic(job)
    counted = dataclasses.replace(config, model=dataclasses.replace(config.model, kind=kind))
    return config.train.batch_size * sum(memory.step_flops(counted, mode, frozen=job == "features") for mode in modes)


def random_batch(config: Config) -> dict[str, np.ndarray]:
    """Makes normalised inputs, masking noise without structure, which costs no less, and targets: float32."""
    model, size, rng = config.model, config.train.batch_size, np.random.default_rng(0)
    shapes = {
        "fbank": (model.audio_frames, model.mel_bins),
        "image": (model.image_size, model.image_size, 3),
        "noise_audio": (math.prod(model.grid("audio")),),
        "noise_image": (math.prod(model.grid("image")),),
    }
    batch = {name: rng.standard_normal((size, *shape), np.float32) for name, shape in shapes.items()}
    return {**batch, "targets": rng.integers(0, 2, (size, _CLASSES)).astype(np.float32)}


def prepare(job: str, config: Config, batch: Arrays, weights: Arrays | None = None) -> Run:
    """Returns a function that does a job once in JAX and returns [loss], or [audio features, image features].

    Training steps are those of train.loop: jitted, with a donated state, the batch on the device.

    Args:
      job: a key of JOBS.
      config: its model, loss and optim are used.
      batch: from random_batch.
      weights: initial weights by their official names; None: random ones.
    """
    tuning = job == "finetuning"
    model_config = dataclasses.replace(config.model, kind="cavmae_classifier" if tuning else "cavmae")

    def make() -> registry.Model:
        return registry.build(model_config, _CLASSES if tuning else 0, rngs=nnx.Rngs(0))

    model = make() if weights is None else build.build_official(make, weights)
    on_device: Any = jax.device_put(dict(batch))
    if job == "features":

        @nnx.jit
        def extract(model: Any, batch: Any) -> list[jax.Array]:
            tokens = model.separate(_by_modality(batch))
            return [join(model.encoder.joint(tokens, modality)) for modality in ("audio", "image")]

        return lambda: [np.asarray(tokens) for tokens in extract(model, on_device)]
    objective = _Objective(config, tuning)
    graph, params, frozen = nnx.split(model, nnx.Param if tuning else optim.trainable(config.model), ...)
    schedule = optim.learning_rate(config.optim, 1e6)  # steps an epoch: the learning rate doesn't decay
    optimizer = optim.adam(config.optim, schedule)
    state = State(params, frozen, jax.jit(optimizer.init)(params), {})
    update = make_step(graph, objective, optimizer, schedule, micro_batches=1, groups=1)
    step = CompiledOnce(jax.jit(update, donate_argnums=0, compiler_options=compiler_options(jax.default_backend())))

    def run() -> list[np.ndarray]:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, on_device, jax.random.key(0), np.int32(0)))
        return [np.asarray(metrics["loss"])]

    return run


class _Objective:
    """The losses of train/pretraining.py, or binary cross-entropy, on a batch of random_batch."""

    def __init__(self, config: Config, tuning: bool):
        self._config, self._tuning = config, tuning
        self.loss_weights = {"loss": 1.0} if tuning else losses.pretraining_weights(config.loss)

    def losses(self, model: Any, batch: Any, context: Context) -> tuple[Metrics, Metrics]:
        """Computes the losses by name."""
        inputs = _by_modality(batch)
        if self._tuning:
            return {"loss": optax.sigmoid_binary_cross_entropy(model(inputs), batch["targets"]).mean()}, {}
        noise = {modality: batch[f"noise_{modality}"] for modality in inputs}
        out, loss, patch = model(inputs, noise), self._config.loss, self._config.model.patch
        return losses.pretraining_losses(out, inputs, loss, patch=patch, groups=context.groups)

    def update_extra(self, extra: Any, params: Any, step: jax.Array) -> Any:
        """Returns the extra state, of which there is none."""
        return extra


def _by_modality(batch: Any) -> dict[str, jax.Array]:
    return {"audio": batch["fbank"], "image": batch["image"]}


def show_comparison(configs: Sequence[Config], steps: int) -> None:
    """Prints a row for each config and job; raises as compare_job does."""
    times, speeds = [], []
    for config in configs:
        for job, name in JOBS.items():
            logging.info("%s, %s, batch %d", name, config.name, config.train.batch_size)
            turns, peaks = compare_job(job, config, steps)
            clocks = {side: cost.clock for side, cost in turns.items()}
            pairs = [f"{config.train.batch_size / np.median(clocks[side]):.3g}" for side in SIDES]
            seconds = [float(np.median(clocks[side])) for side in SIDES]
            peak = " / ".join(f"{peaks[side]:.2f}" for side in SIDES)
            times.append([name, config.name, *seconds, ratio(*(clocks[side] for side in SIDES)), " / ".join(pairs), peak])
            speeds.append([name, config.name, *speed_cells(job, config, clocks)])
    note = f"medians of {steps} turns, {len(os.sched_getaffinity(0))} cores; all results agree"
    headings = ["job", "model", "JAX s", "PyTorch s", "JAX / PyTorch", "pairs/s, JAX / PyTorch", "peak GiB, JAX / PyTorch"]
    show("JAX and PyTorch", headings, times, note)
    headings = ["job", "model", "product", "its GFLOP/s", *(f"{side} GFLOP/s" for side in SIDES), *(f"{side}'s share" for side in SIDES)]
    show("Share of a matrix product's speed", headings, speeds, f"medians of {steps} turns; the product takes turns with the two sides")


def speed_cells(job: str, config: Config, clocks: Mapping[str, np.ndarray]) -> list[str]:
    """Formats the product, its GFLOP/s, those of both sides, and their shares, medians of the turns; `clocks` holds seconds by side."""
    product = Product.of(job, config)
    speeds = {side: job_flops(job, config) / clocks[side] / 1e9 for side in SIDES}
    reached = product.flops / clocks[_PRODUCT] / 1e9
    shares = [f"{np.median(speed / reached):.0%}" for speed in speeds.values()]
    return [str(product), *(f"{np.median(speed):.0f}" for speed in (reached, *speeds.values())), *shares]
