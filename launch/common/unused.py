"""Refuses options that would do nothing beside the others: the one list of all programs, so that none is ignored without a word."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from absl import app, flags

from avmae_jax.config import Config

# Options of launch.report for what it computes.
COMPUTING = ("data", "split", "labels_csv", "tuned_loss", "tuned_mode", "compute_dtype", "heads", "decoder_heads")
_AUDIO = {"audio", "audioonly", "missingaudioonly"}  # what a classifier is given, where it is audio alone ...
_IMAGE = {"image", "videoonly", "missingvideoonly"}  # ... and images alone
_TUNING = ("finetune", "study")
_PRETRAINING = ("pretrain", "ablation", "gpu_report")
_OWN_RECIPES = ("study", "ablation")  # programs whose default of --config is a recipe
ABLATION_SETS = (
    *("loss.bidirectional", "loss.negatives", "loss.contrast_pass", "loss.contrast_order", "loss.distill_weight"),
    *("train.steps", "train.epochs", "train.seed", "train.workdir", "train.micro_batch", "train.eval_every", "train.checkpoint_every"),
    "train.retrieval_clips",
)
STUDY_SETS = ("init_from", "data.labelled_", "train.seed", "train.workdir", "train.eval_every", "train.checkpoint_", "train.keep_")


class _Rule(NamedTuple):
    """Says when options do nothing; `why` ends the sentence "--OPTION does nothing ..."."""

    options: tuple[str, ...]
    when: Callable[[Any, Sequence[str]], object]  # of flags.FLAGS and the arguments that are no options, the model or data set first
    why: str


class _FieldRule(NamedTuple):
    """Says when fields of a config do nothing; a name that ends in a dot or an underscore stands for all that begin so."""

    fields: tuple[str, ...]
    when: Callable[[str, Config], object]  # of the program and the config
    why: str


def _all_given(args: Any, kinds: set[str]) -> bool:
    given = {value.strip() for text in args.given for value in text.split(",") if value.strip()}
    return bool(given) and given <= kinds


def _contrasts(config: Config) -> bool:
    """Returns whether a config's model has vectors of audio and images; a kind that doesn't exist is refused elsewhere."""
    from avmae_jax.models.registry import KINDS

    return config.model.kind not in KINDS or bool(KINDS[config.model.kind].vectors)


def _takes(config: Config, pairs: bool) -> bool:
    """Returns whether a config's model takes pairs of a clip, or one frame of it; a kind that doesn't exist is refused elsewhere."""
    from avmae_jax.models.registry import KINDS

    return config.model.kind in KINDS and KINDS[config.model.kind].pairs == pairs


def _is_torch(path: str) -> bool:
    from avmae_jax.weights.tensor_files import is_torch

    return is_torch(Path(path))


_TRAINING = (_Rule(("hosts_timeout",), lambda args, _: args.hosts == "off", "with --hosts=off, which waits for none"),)

RULES: dict[str, tuple[_Rule, ...]] = {
    "pretrain": _TRAINING,
    "finetune": _TRAINING,
    "study": _TRAINING,
    "prepare": (
        _Rule(("workers",), lambda args, _: args.beam_runner, "with --beam_runner, whose own options say how many processes there are"),
        _Rule(("beam_options",), lambda args, _: not args.beam_runner, "without --beam_runner"),
    ),
    "predict": (
        _Rule(("raw_csv",), lambda args, _: not args.csv, "without --csv"),
        _Rule(
            ("top", "unsure_below", "given", "frames", "timeline", "short_audio", "batch_size", "threads"),
            lambda args, _: args.match_timeline,
            "with --match_timeline, which names no classes",
        ),
        _Rule(
            ("match_rate", "match_against", "longest_offset", "match_pictures"),
            lambda args, _: not args.match_timeline,
            "without --match_timeline",
        ),
    ),
    "evaluate": (
        _Rule(("frames",), lambda args, _: _all_given(args, _AUDIO), "where the classifier is given audio alone"),
        _Rule(("crops",), lambda args, _: _all_given(args, _IMAGE), "where the classifier is given images alone"),
    ),
    "retrieve": (
        _Rule(("top",), lambda args, _: not args.query, "without --query"),
        _Rule(("per_class", "seed"), lambda args, _: args.query, "with --query"),
        _Rule(("frames", "pairs"), lambda args, _: args.query, "with --query, which compares the middle frames of clips"),
        _Rule(("pairs",), lambda args, _: args.frames == "one", "with --frames=one"),
        _Rule(("seed",), lambda args, _: not args.per_class, "without --per_class, whose clips it draws"),
        _Rule(
            ("split", "batch_size"),
            lambda args, _: args.query and not Path(args.index).expanduser().is_dir(),
            "where --index is a file, whose clips are embedded already",
        ),
        _Rule(
            ("data",),
            lambda args, _: args.query and Path(args.index).expanduser().is_dir(),
            "where --index is a data set, which is searched",
        ),
        _Rule(("data",), lambda args, _: args.query and not args.out, "without --out, for which it gives the images that are drawn"),
    ),
    "demo": (
        _Rule(("split",), lambda args, _: not args.index, "without --index, whose clips it chooses"),
        _Rule(
            ("split",),
            lambda args, _: not Path(args.index).expanduser().is_dir(),
            "where --index is a file, of clips already chosen",
        ),
    ),
    "inpaint": (_Rule(("data", "split"), lambda _, arguments: len(arguments) > 1, "with files; it chooses the data set of --clips"),),
    "inspect_data": (_Rule(("out",), lambda args, _: not args.clips, "with --clips=0, which draws no contact sheet"),),
    "convert": (
        _Rule(("license",), lambda args, _: not args.pretrained, "without --pretrained, whose card names it"),
        _Rule(("prefix",), lambda _, rest: not _is_torch(rest[1]), "where OUT is no file of PyTorch, whose names are always the same"),
    ),
    "export": (
        _Rule(("quantize",), lambda args, _: args.format == "stablehlo", "with --format=stablehlo, whose weights stay float32"),
        _Rule(("labels_csv", "tuned_loss"), lambda args, _: args.what == "embed", "with --what=embed, which names no classes"),
    ),
    "report": (_Rule(COMPUTING, lambda args, _: not args.make, "with --nomake, which computes nothing"),),
    "benchmark": (
        _Rule(("against",), lambda args, _: args.data, "with --data, which is another measurement"),
        _Rule(("against", "data", "media"), lambda args, _: args.export, "with --export, which is another measurement"),
        _Rule(("steps",), lambda args, _: args.data == "scale", "with --data scale"),
        _Rule(("config",), lambda args, _: args.data == "prepare", "with --data prepare"),
        _Rule(("against", "data", "export", "media", "steps"), lambda args, _: args.gpu_report, "with --gpu_report"),
        _Rule(
            ("against", "export", "gpu_report"),
            lambda args, _: not args["config"].using_default_value and _takes(cast(Config, args["config"].value), pairs=True),
            "for a model of pairs, whose step is timed alone",
        ),
        _Rule(("batches", "minutes"), lambda args, _: not args.gpu_report, "without --gpu_report"),
    ),
}

_CONTRAST = (  # fields of the contrastive loss
    *("loss.contrast_weight", "loss.temperature", "loss.bidirectional", "loss.negatives", "loss.clip_negatives", "loss.global_local"),
    *("loss.contrast_pass", "loss.contrast_order", "loss.distill_weight", "loss.teacher_momentum", "model.contrast_mask_ratio"),
)
FIELD_RULES = (
    _FieldRule(
        ("train.batch_size", "train.micro_batch", "model.remat"),
        lambda program, _: program == "gpu_report",
        "with --gpu_report, which measures each of --batches at once, with recomputed blocks and without",
    ),
    _FieldRule(("tune.mode",), lambda program, _: program == "study", "in a study; --given chooses it"),
    _FieldRule(STUDY_SETS, lambda program, _: program == "study", "in a study, which sets it for each training"),
    _FieldRule(ABLATION_SETS, lambda program, _: program == "ablation", "in an ablation, which sets it for each training"),
    _FieldRule(("tune.",), lambda program, _: program in _PRETRAINING, "in pretraining; it is for launch.finetune"),
    _FieldRule(("data.labelled_",), lambda program, _: program in _PRETRAINING, "in pretraining, which needs no labels"),
    _FieldRule(("data.labelled_seed",), lambda _, config: not config.data.labelled_per_class, "where data.labelled_per_class is 0"),
    _FieldRule(("loss.",), lambda program, _: program in _TUNING, "in fine-tuning, whose loss tune.loss chooses"),
    _FieldRule(("augment.label_smoothing",), lambda program, _: program in _PRETRAINING, "in pretraining, which has no targets"),
    _FieldRule(("train.retrieval_clips",), lambda program, _: program in _TUNING, "in fine-tuning, after which nothing is retrieved"),
    _FieldRule(("train.eval_batches",), lambda program, _: program in _TUNING, "in fine-tuning, which evaluates all held-out clips"),
    _FieldRule(("train.picture_every",), lambda program, _: program in _TUNING, "in fine-tuning, which draws no reconstructions"),
    _FieldRule(
        ("train.matmul_precision",), lambda _, config: config.model.compute_dtype == "bfloat16", "where the model computes in bfloat16"
    ),
    _FieldRule(("optim.cosine_floor",), lambda _, config: config.optim.schedule != "cosine", "where optim.schedule isn't cosine"),
    _FieldRule(("train.epochs",), lambda _, config: config.train.steps, "where train.steps is given"),
    _FieldRule(("data.path",), lambda _, config: config.data.source == "builtin", "with the built-in set; give data.source=prepared"),
    _FieldRule(("data.builtin_", "data.cache_dir"), lambda _, config: config.data.source != "builtin", "where data.source isn't builtin"),
    _FieldRule(
        ("data.frames", "data.pairs_per_clip"), lambda _, config: _takes(config, pairs=False), "for a model that takes one frame of a clip"
    ),
    _FieldRule(("data.pairs_per_clip",), lambda program, _: program in _TUNING, "in fine-tuning, which takes all pairs of a clip"),
    _FieldRule(("model.contrast_mask_ratio",), lambda _, config: not config.loss.contrast_pass, "where loss.contrast_pass is False"),
    _FieldRule(
        ("loss.teacher_momentum",),
        lambda _, config: not config.loss.needs_teacher,
        "without a teacher; loss.contrast_order=attention or loss.distill_weight asks for one",
    ),
    _FieldRule(("loss.global_local",), lambda _, config: not config.model.class_token, "where model.class_token is False"),
    _FieldRule(_CONTRAST, lambda _, config: not _contrasts(config), "for a model that compares no audio with images"),
    _FieldRule(("loss.clip_negatives",), lambda _, config: config.data.pairs_per_clip == 1, "where data.pairs_per_clip is 1"),
    _FieldRule(("tune.eval_frames",), lambda _, config: _takes(config, pairs=True), "for a model of pairs, which takes all frames"),
    _FieldRule(
        ("data.eval_path", "data.labels_csv", "data.root"),
        lambda _, config: config.data.source != "manifest",
        "where data.source isn't manifest",
    ),
    _FieldRule(
        ("tune.both_weight", "tune.audio_weight", "tune.image_weight", "tune.swap_pictures"),
        lambda _, config: config.tune.mode != "multimodal",
        "where tune.mode isn't multimodal",
    ),
    _FieldRule(("augment.mixup_alpha",), lambda _, config: not config.augment.mixup, "where augment.mixup is 0"),
    _FieldRule(("augment.specaug_", "augment.noise"), lambda _, config: config.model.modality == "image", "for a model of images alone"),
    _FieldRule(("augment.crop_area", "augment.flip"), lambda _, config: config.model.modality == "audio", "for a model of audio alone"),
)


def require_used(program: str, argv: Sequence[str], args: Any = flags.FLAGS) -> None:
    """Raises UsageError for an option of a program that was given and does nothing beside the others; the first of argv is its name."""
    for rule in RULES.get(program, ()):
        for name in rule.options:
            if rule.when(args, argv[1:]):
                require_left_out([name], rule.why, args)
    require_used_fields(program, args)


def require_used_fields(program: str, args: Any = flags.FLAGS) -> None:
    """Raises UsageError for a field of --config that was given on the command line and does nothing in a program."""
    if "config" in args and (program in _OWN_RECIPES or not args["config"].using_default_value):
        config = cast(Config, args["config"].value)
        for name, why in unused_fields(program, config, cast(Any, args["config"]).override_values):
            raise app.UsageError(f"--config.{name} does nothing {why}; leave it out")


def require_left_out(names: Iterable[str], why: str, args: Any = flags.FLAGS) -> None:
    """Raises UsageError for an option of these that was given; for combinations that show only once a model or a run is open."""
    for name in names:
        if not args[name].using_default_value:
            raise app.UsageError(f"--{name} does nothing {why}; leave it out")


def unused_fields(program: str, config: Config, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields those of some fields that do nothing in a program with this config, and why."""
    for name in names:
        for rule in FIELD_RULES:
            if any(name == field or (field[-1] in "._" and name.startswith(field)) for field in rule.fields) and rule.when(program, config):
                yield name, rule.why
                break
