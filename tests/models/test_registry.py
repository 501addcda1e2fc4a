"""Kinds of model: each builds, takes its inputs, and its stages agree with the shapes of a traced pass; a new kind is a new row."""

import dataclasses
from collections import Counter
from typing import Any, cast

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from avmae_jax.config import Config, DataConfig, ModelConfig
from avmae_jax.errors import ConfigError
from avmae_jax.models import late, registry, sync_classifier
from avmae_jax.models.ast import AST
from avmae_jax.models.layers import Block, Stage
from avmae_jax.models.modes import MODES, Mode

# No two stacks see as many tokens of the same width.
TINY = ModelConfig(
    depth=3, joint_depth=2, width=16, heads=2, decoder_depth=2, decoder_width=8, decoder_heads=2,
    audio_frames=64, mel_bins=32, image_size=48,
)  # fmt: skip
CLASSES, PAIRS = 5, 4


def _config(kind: str, modality: str) -> ModelConfig:
    return dataclasses.replace(TINY, kind=kind, modality=modality)


def _sync(kind: str, **changed: Any) -> ModelConfig:
    return dataclasses.replace(_config(kind, "both"), class_token=True, registers=3, **changed)


CASES = {
    "cavmae": (_config("cavmae", "both"), None),
    **{str(mode): (_config("cavmae_classifier", "both"), mode) for mode in MODES},
    **{f"late {mode}": (_config("late_classifier", "both"), mode) for mode in late.MODES},
    "sync": (_sync("sync"), None),
    "sync with every option": (_sync("sync", contrast_depth=2, joint_depth=1), None),
    **{f"sync {mode}": (_sync("sync_classifier"), mode) for mode in sync_classifier.MODES},
    "sync, late fusion": (_sync("sync_classifier", pair_pool="late"), sync_classifier.MODES[0]),
    "sync, pairs by themselves": (_sync("sync_classifier", pair_pool="global", pair_depth=0), sync_classifier.MODES[1]),
    "mae of audio": (_config("mae", "audio"), None),
    "mae of images": (_config("mae", "image"), None),
    "ast": (_config("ast", "audio"), None),
}
all_cases = pytest.mark.parametrize(("config", "mode"), CASES.values(), ids=CASES.keys())


def _build(config: ModelConfig) -> Any:
    classes = CLASSES if registry.kind_of(config).task == "classification" else 0
    return nnx.eval_shape(lambda: registry.build(config, classes, rngs=nnx.Rngs(0)))


def _inputs(config: ModelConfig, *, embedding: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = {"audio": (2, config.audio_frames, config.mel_bins), "image": (2, config.image_size, config.image_size, 3)}
    kind = registry.kind_of(config)
    pairs = (PAIRS,) if kind.pairs and (embedding or kind.task == "classification") else ()
    return {m: jax.ShapeDtypeStruct((2, *pairs, *shapes[m][1:]), jnp.float32) for m in kind.inputs(config)}


def _run(config: ModelConfig, mode: Mode | None) -> Any:
    """Traces a training pass of a kind."""
    inputs = _inputs(config)
    if registry.kind_of(config).task == "classification":
        options = {"mode": mode} if mode else {}
        return nnx.eval_shape(lambda model, inputs: model(inputs, **options), _build(config), inputs)
    noise = {name: jax.ShapeDtypeStruct((2, rows * columns), jnp.float32) for name in inputs for rows, columns in [config.grid(name)]}
    return nnx.eval_shape(lambda model, *arguments: model(*arguments), _build(config), inputs, noise)


def test_every_kind_is_tried_here() -> None:
    assert {config.kind for config, _ in CASES.values()} == set(registry.KINDS)


@all_cases
def test_a_kind_builds_and_takes_the_inputs_that_it_declares(config: ModelConfig, mode: Mode | None) -> None:
    out = _run(config, mode)
    kind = registry.kind_of(config)
    if kind.task == "classification":
        assert (out.shape, out.dtype) == ((2, CLASSES), jnp.float32)
        assert mode is None or mode in kind.modes
    else:
        assert set(out.predictions) == set(out.masks) == set(kind.inputs(config))


@all_cases
def test_stages_are_the_blocks_and_tokens_of_a_real_pass(config: ModelConfig, mode: Mode | None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    run = Block.__call__

    def count(block: Block, tokens: jax.Array, *others: Any) -> jax.Array:
        seen[tokens.shape[1], tokens.shape[2]] += 1
        return run(block, tokens, *others)

    monkeypatch.setattr(Block, "__call__", count)
    _run(config, mode)
    declared: Counter[tuple[int, int]] = Counter()
    for stage in registry.kind_of(config).stages(Config(model=config, data=DataConfig(frames=PAIRS)), mode):
        declared[stage.tokens, stage.width] += stage.blocks
    assert declared == seen


@all_cases
def test_vectors_are_those_that_embed_computes(config: ModelConfig, mode: Mode | None) -> None:
    kind, model = registry.kind_of(config), _build(config)
    assert hasattr(model, "embed") == bool(kind.vectors)
    if kind.vectors:
        vectors = nnx.eval_shape(lambda model, inputs: model.embed(inputs), model, _inputs(config, embedding=True))
        assert {name: x.shape for name, x in vectors.items()} == dict.fromkeys(kind.vectors, (2, PAIRS, 16) if kind.pairs else (2, 16))


def test_fine_tuning_makes_a_kind_that_classifies() -> None:
    for kind in registry.KINDS.values():
        assert not kind.tuned_as or (kind.task, registry.KINDS[kind.tuned_as].task) == ("pretraining", "classification")


def test_an_unknown_kind_names_near_ones_and_a_strange_one_all() -> None:
    with pytest.raises(ValueError, match=r"model\.kind.*cavmea.*cavmae"):
        registry.kind_of(_config("cavmea", "both"))
    with pytest.raises(
        ValueError, match=r"model\.kind.*xyz.*cavmae or sync or cavmae_classifier or late_classifier or sync_classifier or mae or ast"
    ):
        registry.build(_config("xyz", "both"), rngs=nnx.Rngs(0))


def test_the_mode_of_tuning_is_the_configs_or_the_only_one() -> None:
    config = Config(model=_config("cavmae_classifier", "both"))
    config.tune.mode = "audioonly"
    assert str(registry.tuned_mode(config)) == "audioonly"
    config.model, config.tune.mode = _config("ast", "audio"), "multimodal"
    assert str(registry.tuned_mode(config)) == "audioonly"


def test_a_new_row_is_enough_for_a_new_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(
        registry.KINDS["ast"],
        title="AST without overlap",
        build=lambda config, classes, *, rngs: AST(config, classes, stride=config.patch, rngs=rngs),
        stages=lambda config, mode: [Stage(3, 2 + 4 * 2, 16)],
        stride=None,
    )
    monkeypatch.setitem(cast(dict[str, registry.Kind], registry.KINDS), "ast_plain", row)
    config = _config("ast_plain", "audio")
    model = _build(config)
    assert isinstance(model, AST)
    assert model.tower.positions.shape == (2 * 4, 16)
    assert _run(config, None).shape == (2, CLASSES)
    with pytest.raises(ValueError, match="ast_plain"):
        registry.kind_of(_config("ast_plan", "audio"))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("cavmae", {"head_pool": "attentive"}), ("cavmae", {"head_dropout": 0.1}), ("ast", {"head_pool": "mean_std"})],
)
def test_an_option_of_a_head_that_a_kind_lacks_is_refused(kind: str, changes: dict[str, Any]) -> None:
    config = ModelConfig(kind=kind, modality="audio" if kind == "ast" else "both", **changes)
    with pytest.raises(ConfigError, match=rf"model\.{next(iter(changes))} is .*{next(iter(changes.values()))}"):
        registry.build(config, 3, rngs=nnx.Rngs(0))
