"""Compares files of the pretraining model of CAV-MAE Sync, with one masked pass or with the two of the dual path."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from avmae_jax.config import LossConfig, ModelConfig
from avmae_jax.models.cavmae import MODALITIES, Pretraining
from avmae_jax.models.pairs import merge_pairs
from avmae_jax.models.sync import Sync
from avmae_jax.models.tokens import GLOBAL, PATCHES, Tokens, name_of
from avmae_jax.train import losses
from avmae_jax.weights import build
from parity.quantities import of_losses, of_pass
from parity.recorded import pretraining, retrieval, teacher
from parity.recorded.arrays import GoldenError, has, inputs_of

_SECOND = "_contrast"  # ends the names of what belongs to the second pass of the dual path


class Recorded(pretraining.Recorded):
    """Holds a file and the model with its weights; see pretraining.Recorded."""

    title = "pretraining model of CAV-MAE Sync"
    exact = ("windows_", "retrieval_", "teacher_rank_")

    @property
    def dual(self) -> bool:
        """Returns True for the dual path, whose contrastive loss is that of a second pass."""
        return f"in.noise_audio{_SECOND}" in self.arrays

    def build(self, config: ModelConfig) -> Sync:
        """Builds the JAX model with the file's weights."""
        return build.build_official(lambda: Sync(config, rngs=build.AnyKey()), self.params)

    def find_model(self) -> ModelConfig:
        """Finds sizes from the weights and the masks, and heads and chaining by trial."""
        config = dataclasses.replace(super().find_model(), kind="sync")
        return dataclasses.replace(config, contrast_mask_ratio=self._second_ratio()) if self.dual else config

    def _second_ratio(self) -> float:
        """Returns the ratio that hides as many tokens of both modalities as the masks of the second pass do."""
        hidden = [self.arrays[f"out.mask_{modality}{_SECOND}"][0] for modality in MODALITIES]
        kept = [((1 - mask).sum(), len(mask)) for mask in hidden]
        least, most = max(count / length for count, length in kept), min((count + 1) / length for count, length in kept)
        if least >= most:
            shares = " and ".join(f"{int(count)} of {length}" for count, length in kept)
            raise GoldenError(f"the masks of the second pass keep {shares} tokens, which no single ratio does")
        return float(1 - (least + most) / 2)

    def notes(self) -> list[str]:
        """Describes what was found in the file or by trial."""
        config = self.config
        names = ("class_token", "registers", "contrast_depth", *(("contrast_mask_ratio",) if self.dual else ()))
        return [*super().notes(), ", ".join(f"{name}={getattr(config, name)}" for name in names)]

    def passes(self, model: Any, suffix: str = "") -> tuple[Pretraining, ...]:
        """Runs the masked passes of a step; the second one is that of the dual path."""
        first = super().passes(model, suffix)
        if not self.dual:
            return first
        ratios = dict.fromkeys(MODALITIES, self.config.contrast_mask_ratio)
        ends = [f"{_SECOND}{suffix}", f"{suffix}{_SECOND}"]  # of the names of later steps' noise, in either order
        end = next((end for end in ends if f"in.noise_audio{end}" in self.arrays), ends[0])
        return *first, model(*self.inputs(end), ratios=ratios)

    def losses(self, passes: tuple[Pretraining, ...], loss: LossConfig) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes the total loss of a step, and its parts with the accuracy."""
        contrast, accuracy = losses.contrastive_losses(losses.contrasted(passes[-1], loss), loss)
        parts = losses.reconstruction_losses(passes[0], self.given, loss, patch=self.config.patch) | contrast
        return losses.weighted_sum(parts, losses.pretraining_weights(loss)), parts | accuracy

    def loss_options(self) -> list[dict[str, bool]]:
        """Lists the options among which the recorded contrastive loss decides."""
        both = (False, True) if self.config.class_token else (False,)
        directions = super().loss_options()
        return [{**options, "global_local": option, "contrast_pass": self.dual} for option in both for options in directions]

    def quantities(self) -> dict[str, Any]:
        """Computes every intermediate and every loss, by its recorded name."""
        ours = nnx.jit(self._of_passes)(self.model) | nnx.jit(self._of_unmasked)(self.model)
        if has(self.arrays, "in.noise_audio_teacher"):
            ours |= nnx.jit(teacher.quantities)(self.model, *self.inputs("_teacher"))
            teacher.settle_ties(ours, self.arrays)
        return ours | retrieval.similarities(self.arrays) | retrieval.windows(self.arrays)

    def _of_passes(self, model: Any) -> dict[str, jax.Array]:
        passes = self.passes(model)
        total, parts = self.losses(passes, self.loss)
        found = of_pass(passes[0]) | of_losses(parts, self.loss) | {"loss": total}
        if self.dual:
            found |= {f"{name}{_SECOND}": value for name, value in of_pass(passes[1]).items()}
        for name, bidirectional in (("one_way", False), ("both_ways", True)):
            found[f"loss_contrast_{name}"] = self.losses(passes, dataclasses.replace(self.loss, bidirectional=bidirectional))[1]["nce"]
        if self.loss.global_local:
            found |= {f"loss_contrast_{name}_weighted": self.loss.contrast_weight * parts[f"nce_{name}"] for name in ("global", "local")}
        return found

    def _of_unmasked(self, model: Any) -> dict[str, jax.Array]:
        """Computes features of unmasked pairs: those of the clips for retrieval, and those of the pairs that pretraining is given."""
        pairs = {modality: rows[:, None] for modality, rows in self.given.items()}
        found = {}
        for modality, tokens in _streams(model, pairs).items():
            if self.config.class_token:
                found |= {f"{name}_cls_{modality}": tokens[name_of(modality, GLOBAL)][:, 0] for name in ("feat", "teacher")}
        if not has(self.arrays, "in.clips_audio"):
            return found
        clips = inputs_of(self.arrays["in.clips_audio"], self.arrays["in.clips_image"])
        first = {modality: rows[None, :2] for modality, rows in merge_pairs(clips).items()}  # files hold the tokens of two pairs
        for modality, tokens in _streams(model, first).items():
            found[f"feat_{modality}_tokens"] = tokens[name_of(modality, PATCHES)]
        return found | {f"feat_{modality}": vector for modality, vector in model.embed(clips, MODALITIES).items()}


def _streams(model: Any, pairs: dict[str, jax.Array]) -> dict[str, Tokens]:
    """Computes the final tokens of each modality's own stream, of which each pair is a row."""
    tokens = model.separate(pairs)
    return {m: model.encoder.joint(tokens, m, unchained=model.unchained_contrastive) for m in MODALITIES}
