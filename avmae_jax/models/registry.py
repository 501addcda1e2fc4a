"""Lists every kind of model: all that the rest of the project must know to build, train, load, store and apply it.

A new kind is a module beside this one, a row of KINDS, and its class in Model for type checkers; nothing outside asks for a model's class.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from flax import nnx

from avmae_jax.config import Applied, Config, ModelConfig
from avmae_jax.models import ast, cavmae, classifier, late, mae, sync_classifier
from avmae_jax.models.ast import AST
from avmae_jax.models.cavmae import CAVMAE, MODALITIES
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.encoder import VECTORS
from avmae_jax.models.late import LateClassifier
from avmae_jax.models.layers import Stage
from avmae_jax.models.mae import MAE
from avmae_jax.models.modes import MODES, Mode, find_mode
from avmae_jax.models.sync import Sync
from avmae_jax.models.sync_classifier import SyncClassifier

_HEAD = ("head_pool", "head_dropout", "patch_dropout")  # fields that say how a classifier's head works or is trained
_PAIRS = ("class_token", "registers", "contrast_depth", "clip_frames", "window_rate")  # fields of models of pairs
_OPTIONAL = (*_HEAD, "image_factor", "pair_pool", "pair_depth", *_PAIRS)  # fields that not all kinds have

Model = CAVMAE | Sync | CAVMAEClassifier | LateClassifier | SyncClassifier | MAE | AST

_ONE_IMAGE = "that is for models that take one image of a window; give a CAV-MAE or its classifier"  # of what models of pairs lack


@dataclasses.dataclass(frozen=True)
class Kind:
    """Describes one kind of model and what can be done with it."""

    title: str  # for messages and pages
    build: Callable[..., Any]  # (config, classes, rngs=) -> a freshly initialised model; `classes` is 0 for a pretraining model
    inputs: Callable[[ModelConfig], tuple[str, ...]]  # modalities that it can take
    stages: Callable[[Config, Mode | None], list[Stage]]  # runs of block stacks for one clip in a training step, for arithmetic and memory
    task: Literal["pretraining", "classification"]  # what it is trained for
    names: Literal["cavmae", "vit"]  # naming scheme of its tensors in .pth and .safetensors files
    vectors: tuple[str, ...] = ()  # kinds of vector that its `embed` computes of a clip
    modes: tuple[Mode, ...] = ()  # ways in which a classifier can be applied
    tuned_as: str = ""  # the kind that fine-tuning turns a pretraining model into; "": none
    head: tuple[str, ...] = ()  # fields of ModelConfig about a classifier's head that it has ...
    options: tuple[str, ...] = ()  # ... and further ones that not all kinds have
    pairs: bool = False  # takes several images of a clip, each with the window of the audio around it: [B, F, ...]
    measure: Callable[[Any], dict[str, Any]] | None = None  # of inputs: the statistics that its `standardise` must know of training clips
    unused: Callable[[ModelConfig, str], bool] = lambda config, name: False  # parameters that no mode of a classifier uses
    stride: int | None = None  # pixels between patches where they overlap
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)  # what can't be done with it, "explained" say -> what to do instead


KINDS: Mapping[str, Kind] = {
    "cavmae": Kind(
        title="CAV-MAE",
        build=lambda config, classes, *, rngs: CAVMAE(config, rngs=rngs),
        inputs=lambda config: MODALITIES,
        stages=lambda config, mode: cavmae.stages(config),
        task="pretraining",
        names="cavmae",
        vectors=VECTORS,
        tuned_as="cavmae_classifier",
    ),
    "sync": Kind(
        title="CAV-MAE Sync",
        build=lambda config, classes, *, rngs: Sync(config, rngs=rngs),
        inputs=lambda config: MODALITIES,
        stages=lambda config, mode: [stage._replace(rows=config.data.pairs_per_clip) for stage in cavmae.stages(config)],
        task="pretraining",
        names="cavmae",
        vectors=VECTORS,
        tuned_as="sync_classifier",
        options=_PAIRS,
        pairs=True,
        lacks=dict.fromkeys(("explained", "exported"), _ONE_IMAGE),
    ),
    "cavmae_classifier": Kind(
        title="CAV-MAE classifier",
        build=lambda config, classes, *, rngs: CAVMAEClassifier(config, classes, rngs=rngs),
        inputs=lambda config: MODALITIES,
        stages=lambda config, mode: classifier.stages(config.model, mode or MODES[0]),
        task="classification",
        names="cavmae",
        vectors=VECTORS,
        modes=MODES,
        head=_HEAD,
    ),
    "late_classifier": Kind(
        title="CAV-MAE classifier with late fusion",
        build=lambda config, classes, *, rngs: LateClassifier(config, classes, rngs=rngs),
        inputs=lambda config: MODALITIES,
        stages=lambda config, mode: late.stages(config.model, mode or late.BOTH),
        task="classification",
        names="cavmae",
        vectors=VECTORS,
        modes=late.MODES,
        head=(*_HEAD, "image_factor"),
        measure=late.measure,
    ),
    "sync_classifier": Kind(
        title="CAV-MAE Sync classifier",
        build=lambda config, classes, *, rngs: SyncClassifier(config, classes, rngs=rngs),
        inputs=lambda config: MODALITIES,
        stages=lambda config, mode: sync_classifier.stages(config, mode or sync_classifier.MODES[0]),
        task="classification",
        names="cavmae",
        vectors=VECTORS,
        modes=sync_classifier.MODES,
        head=("pair_pool", "pair_depth", "head_dropout"),
        options=_PAIRS,
        pairs=True,
        unused=sync_classifier.is_unused,
        lacks=dict.fromkeys(("explained", "exported"), _ONE_IMAGE),
    ),
    "mae": Kind(
        title="masked autoencoder of one modality",
        build=lambda config, classes, *, rngs: MAE(config, rngs=rngs),
        inputs=lambda config: (config.modality,),
        stages=lambda config, mode: mae.stages(config.model),
        task="pretraining",
        names="vit",
        options=("class_token",),
        lacks={"explained": "give a CAV-MAE or its classifier"},
    ),
    "ast": Kind(
        title="audio spectrogram transformer",
        build=lambda config, classes, *, rngs: AST(config, classes, rngs=rngs),
        inputs=lambda config: ("audio",),
        stages=lambda config, mode: ast.stages(config.model),
        task="classification",
        names="vit",
        modes=(ast.AUDIO,),
        head=("head_dropout",),
        stride=ast.STRIDE,
        lacks={"explained": "give a CAV-MAE or its classifier"},
    ),
}


def kind_of(config: ModelConfig) -> Kind:
    """Returns the row of a config's kind.

    Raises:
      ValueError: if there is no such kind; names the nearest ones, or all.
    """
    if config.kind not in KINDS:
        near = difflib.get_close_matches(config.kind, KINDS) or list(KINDS)
        raise ValueError(f"model.kind is {config.kind!r}; choose {' or '.join(near)}")
    return KINDS[config.kind]


def tuned_mode(config: Applied) -> Mode:
    """Returns the mode in which a classifier is tuned: config.tune.mode, or the only one that its kind has."""
    modes = kind_of(config.model).modes
    return modes[0] if len(modes) == 1 else find_mode(config.tune.mode, modes)


def build(config: ModelConfig, classes: int = 0, *, rngs: nnx.Rngs) -> Model:
    """Builds a freshly initialised model of the config's kind.

    Args:
      config: kind and sizes.
      classes: of a classifier.
      rngs: `nnx.Rngs(seed)`.

    Raises:
      ValueError: if there is no such kind, the sizes don't fit each other, or the kind has no head to which a field could apply.
    """
    spec = kind_of(config)
    for name in _OPTIONAL:
        offered = name in (*spec.head, *spec.options)
        config.require(name, offered or getattr(config, name) == getattr(ModelConfig, name), f"a {spec.title} has no such option")
    return spec.build(config, classes, rngs=rngs)
