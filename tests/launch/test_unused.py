"""Tests that options which would do nothing beside the others are refused by name, in every program, before anything is loaded."""

import dataclasses
import importlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from absl import app, flags

from avmae_jax import config_files
from avmae_jax.config import Config, ModelConfig
from launch.common import cli, hosts_flags, model_flags, training_flags, unused
from tests.support import Program, apply, called_here
from tests.test_config import EVERY_FIELD

CASES = {
    "prepare": [
        ("workers", ["--beam_runner=DirectRunner", "--workers=2"]),
        ("beam_options", ["--beam_options=direct_num_workers=2"]),
    ],
    "predict": [
        ("raw_csv", ["clip.mp4", "--raw_csv"]),
        ("raw_csv", ["clip.mp4", "--raw_csv", "--json=x.json"]),
        ("top", ["clip.mp4", "--match_timeline", "--top=3"]),
        ("match_rate", ["clip.mp4", "--match_rate=2"]),
        ("match_against", ["clip.mp4", "--match_against=held_out"]),
    ],
    "evaluate": [
        ("frames", ["run", "--given=audio", "--frames=all"]),
        ("frames", ["run", "--mode=audioonly,missingaudioonly", "--frames=first"]),
        ("crops", ["run", "--given=image", "--crops=3"]),
    ],
    "retrieve": [
        ("top", ["run", "--top=3"]),
        ("seed", ["run", "--seed=3"]),
        ("per_class", ["run", "--query=a.mp4", "--index=index.npz", "--per_class=3"]),
        ("frames", ["run", "--query=a.mp4", "--index=index.npz", "--frames=all"]),
        ("pairs", ["run", "--query=a.mp4", "--index=index.npz", "--pairs=max"]),
        ("pairs", ["run", "--frames=one", "--pairs=max"]),
        ("split", ["run", "--query=a.mp4", "--index=index.npz", "--split=train"]),
        ("batch_size", ["run", "--query=a.mp4", "--index=index.npz", "--batch_size=3"]),
        ("data", ["run", "--query=a.mp4", "--index=index.npz", "--data=prepared"]),
        ("data", ["run", "--query=a.mp4", "--index=.", "--data=prepared", "--out=x.png"]),
    ],
    "demo": [("split", ["run", "--split=train"]), ("split", ["run", "--index=index.npz", "--split=train"])],
    "inpaint": [("data", ["run", "a.mp4", "--data=prepared"]), ("split", ["run", "a.mp4", "--split=train"])],
    "inspect_data": [("out", ["prepared", "--clips=0", "--out=x.png"])],
    "convert": [("license", ["run", "w.safetensors", "--license=mit"])],
    "export": [
        ("quantize", ["run", "out", "--format=stablehlo", "--quantize=int8"]),
        ("labels_csv", ["run", "out", "--what=embed", "--labels_csv=x.csv"]),
        ("tuned_loss", ["run", "out", "--what=embed", "--tuned_loss=ce"]),
    ],
    "report": [(name, ["run", "--nomake", f"--{name}={value}"]) for name, value in (("data", "x"), ("split", "train"), ("heads", "3"))],
    "benchmark": [
        ("against", ["--against=torch", "--data=loader"]),
        ("steps", ["--data=scale", "--steps=3"]),
        ("config", ["--data=prepare", "--media=a.mp4", "--config=tiny"]),
        ("steps", ["--gpu_report=x.json", "--steps=3"]),
        ("against", ["--export=a.mp4", "--against=torch"]),
        ("batches", ["--against=torch", "--batches=2"]),
    ],
    "pretrain": [
        ("config.tune.loss", ["--config=tiny", "--config.tune.loss=ce"]),
        ("config.augment.label_smoothing", ["--config=tiny", "--config.augment.label_smoothing=0.1"]),
        ("config.data.path", ["--config=tiny", "--config.data.path=prepared"]),
        ("config.data.builtin_seed", ["--config=tiny", "--config.data.source=prepared", "--config.data.builtin_seed=2"]),
        ("config.data.root", ["--config=tiny", "--config.data.root=x"]),
        ("config.data.labelled_per_class", ["--config=tiny", "--config.data.labelled_per_class=2"]),
        ("config.train.epochs", ["--config=tiny", "--config.train.steps=3", "--config.train.epochs=2"]),
        (
            "config.train.matmul_precision",
            ["--config=tiny", "--config.model.compute_dtype=bfloat16", "--config.train.matmul_precision=high"],
        ),
        ("config.data.frames", ["--config=tiny", "--config.data.frames=4"]),
        ("config.data.pairs_per_clip", ["--config=tiny", "--config.data.pairs_per_clip=4"]),
        ("config.model.contrast_mask_ratio", ["--config=sync_tiny", "--config.model.contrast_mask_ratio=0.25"]),
        ("config.loss.teacher_momentum", ["--config=sync_tiny", "--config.loss.contrast_pass=True", "--config.loss.teacher_momentum=0.9"]),
        ("config.loss.global_local", ["--config=tiny", "--config.loss.global_local=True"]),
        ("config.loss.contrast_pass", ["--config=tiny", "--config.model.kind=mae", "--config.loss.contrast_pass=True"]),
        ("config.loss.clip_negatives", ["--config=sync_tiny", "--config.loss.clip_negatives=True"]),
        ("config.optim.cosine_floor", ["--config=tiny", "--config.optim.cosine_floor=0.1"]),
        ("config.augment.mixup_alpha", ["--config=tiny", "--config.augment.mixup_alpha=2"]),
        ("hosts_timeout", ["--config=tiny", "--hosts=off", "--hosts_timeout=5"]),
    ],
    "finetune": [
        (
            "config.tune.eval_frames",
            ["--config=finetune_instruments", "--config.model.kind=sync_classifier", "--config.tune.eval_frames=all"],
        ),
        (
            "config.data.pairs_per_clip",
            ["--config=finetune_instruments", "--config.model.kind=sync_classifier", "--config.data.pairs_per_clip=4"],
        ),
        ("config.loss.temperature", ["--config=finetune_instruments", "--config.loss.temperature=1"]),
        ("config.train.retrieval_clips", ["--config=finetune_instruments", "--config.train.retrieval_clips=7"]),
        (
            "config.tune.swap_pictures",
            ["--config=finetune_instruments", "--config.tune.mode=audioonly", "--config.tune.swap_pictures=0.2"],
        ),
        ("config.data.labelled_seed", ["--config=finetune_instruments", "--config.data.labelled_seed=2"]),
        ("config.train.eval_batches", ["--config=finetune_instruments", "--config.train.eval_batches=1"]),
        ("config.train.picture_every", ["--config=finetune_instruments", "--config.train.picture_every=5"]),
    ],
    "study": [
        ("hosts_timeout", ["run", "--hosts=off", "--hosts_timeout=5"]),
        ("config.tune.mode", ["run", "--config.tune.mode=audioonly"]),
        ("config.data.labelled_per_class", ["run", "--config=finetune_instruments", "--config.data.labelled_per_class=3"]),
        ("config.init_from", ["run", "--config.init_from=x"]),
        ("config.train.workdir", ["run", "--config.train.workdir=x"]),
        ("config.loss.temperature", ["run", "--config.loss.temperature=1"]),
    ],
}
USED = {
    "prepare": [["--workers=2"], ["--beam_runner=DirectRunner", "--beam_options=direct_num_workers=2"]],
    "predict": [["clip.mp4", "--raw_csv", "--csv=x.csv"]],
    "evaluate": [["run", "--given=audio,both", "--frames=all"], ["run", "--frames=all", "--crops=2"]],
    "retrieve": [
        ["run", "--per_class=2", "--seed=3", "--data=prepared", "--split=train"],
        ["run", "--frames=all", "--pairs=max"],
        ["run", "--query=a.mp4", "--index=.", "--split=train", "--batch_size=2", "--top=3"],
        ["run", "--query=a.mp4", "--index=x.npz", "--data=prepared", "--out=x.png"],
    ],
    "inpaint": [["run", "--clips=a,b", "--data=prepared"]],
    "inspect_data": [["prepared", "--out=x.png"]],
    "report": [["run", "--data=x"], ["run", "--nomake", "--out=x.html"]],
    "benchmark": [["--data=loader", "--steps=3", "--config=tiny"], ["--gpu_report=x.json", "--batches=2,4", "--minutes=1"]],
    "pretrain": [["--config=tiny", "--config.data.builtin_seed=2", "--config.loss.temperature=1"], ["--config=pretrain_instruments"]],
    "finetune": [
        ["--config=finetune_instruments", "--config.tune.mode=audioonly"],
        ["--config=finetune_instruments", "--config.data.path=x"],
        ["--config=finetune_instruments", "--config.data.labelled_per_class=4", "--config.data.labelled_seed=1"],
    ],
}


TRAINING = ("pretrain", "finetune", "study")
PREPARE = ["--videos=absent", "--out=absent"]


def require_used(program: str, arguments: Sequence[str]) -> None:
    """Parses the command line of a program, and looks for options that do nothing."""
    arguments = [program, *(PREPARE if program == "prepare" else ()), *arguments]
    if program in TRAINING:
        values = flags.FlagValues()
        if program == "study":
            cli.define_config(values, arguments, "finetune_instruments")
            hosts_flags.define(values)
        else:
            training_flags.define(values, arguments)
        unused.require_used(program, cli.parse(arguments, values), values)
        return
    with called_here(importlib.import_module(f"launch.{program}")):
        flags.FLAGS.unparse_flags()
        unused.require_used(program, flags.FLAGS(arguments))


@pytest.mark.parametrize(("program", "name", "arguments"), [(program, *case) for program, cases in CASES.items() for case in cases])
def test_an_option_that_does_nothing_is_refused_by_name(program: str, name: str, arguments: list[str]) -> None:
    with pytest.raises(app.UsageError, match=f"^--{name} does nothing"):
        require_used(program, arguments)


@pytest.mark.parametrize(("program", "arguments"), [(program, case) for program, cases in USED.items() for case in cases])
def test_options_that_do_something_are_not_refused(program: str, arguments: list[str]) -> None:
    require_used(program, arguments)


@pytest.mark.parametrize("program", [name for name in CASES if name not in TRAINING])
def test_every_program_refuses_them_before_anything_else(program: str) -> None:
    name, arguments = CASES[program][0]
    given = ["--model=absent", *arguments] if program == "predict" else [*PREPARE, *arguments] if program == "prepare" else arguments
    with called_here(importlib.import_module(f"launch.{program}")) as main:
        if program == "inpaint":
            given = [*given, "--out=absent"]
        with pytest.raises(app.UsageError, match=f"^--{name} does nothing"):
            main(*given)


@pytest.mark.parametrize("name", TRAINING)
def test_training_refuses_them_too(program: Program, name: str) -> None:
    field, arguments = CASES[name][0]
    done = program("-m", f"launch.{name}", *arguments)
    assert (done.returncode, done.stderr.split(" does nothing")[0]) == (1, f"--{field}")


def test_every_rule_names_options_and_fields_that_there_are() -> None:
    fields = [name for name, _, _ in EVERY_FIELD]
    for rule in unused.FIELD_RULES:
        assert all(any(name.startswith(field) for name in fields) for field in rule.fields)
    for program, rules in unused.RULES.items():
        with called_here(importlib.import_module(f"launch.{program}")):
            assert {name for rule in rules for name in rule.options} <= {*flags.FLAGS}


def test_the_command_that_a_program_advises_is_not_refused(tmp_path: Path) -> None:
    config = apply(
        Config(),
        {"data.source": "prepared", "data.path": "/prepared", "data.builtin_train": 7, "model.depth": 3, "model.compute_dtype": "float32"},
    )
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    command = shlex.split(model_flags.finetune_command(str(tmp_path), config.model))
    assert {"--config.data.path=/prepared", "--config.model.depth=3"} <= {*command}
    assert not [option for option in command if "compute_dtype" in option]  # the devices decide
    require_used("finetune", command[3:])


def test_the_advised_recipe_is_the_nearest_one() -> None:
    published = dataclasses.replace(ModelConfig(), depth=12, width=768, heads=12)  # as read from the tensors of a .pth
    command = shlex.split(model_flags.finetune_command("cav-mae.pth", published))
    workdir = "--config.train.workdir=cav-mae.pth_finetuned"
    assert command[3:] == ["--config", "finetune_pretrained", "--config.init_from=cav-mae.pth", workdir]
    small = config_files.shipped("pretrain_instruments").model
    assert shlex.split(model_flags.finetune_command("w.pth", small))[4] == "finetune_instruments"
    of_pairs = shlex.split(model_flags.finetune_command("sync.pth", config_files.shipped("sync").model))
    assert of_pairs[4:] == [
        *("finetune_sync", "--config.init_from=sync.pth", "--config.train.workdir=sync.pth_finetuned", "--config.data.path=prepared")
    ]
    require_used("finetune", of_pairs[3:])
    require_used("finetune", command[3:])
