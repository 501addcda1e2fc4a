"""Tests the start of every program: its help, and what a user can do wrong before anything is loaded or generated."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from avmae_jax.config import Config
from avmae_jax.config import Frames as BatchFrames
from avmae_jax.errors import DatasetError
from avmae_jax.settings import field_types
from launch.common import cli, help_page, model_flags, runtime
from tests.support import ROOT, Program, time_limit
from tests.test_config import EVERY_FIELD

PROGRAMS = sorted({path.stem for path in (ROOT / "launch").glob("*.py")} - {"__init__"})
HEAVY = {"jax", "flax", "orbax", "matplotlib", "grain", "torch"}
SHOWN = {  # options that must be in the help, those of common flags too
    "pretrain": ["config"],
    "finetune": ["config"],
    "predict": ["model", "top", "timeline", "heads", "labels_csv"],
    "evaluate": ["mode", "frames", "data", "split", "decoder_heads"],
    "prepare": ["videos", "out", "clip_seconds", "beam_runner"],
    "convert": ["heads", "mel_bins", "audio_frames"],
}


def started(code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own."""
    limit = time_limit(60)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.process
def test_help_shows_the_options_of_a_program_and_imports_nothing_heavy(name: str) -> None:
    code = (
        f"import runpy, sys; sys.argv = [{name!r}, '--help']; runpy.run_module('launch.{name}', run_name='__main__', alter_sys=True); "
        "print(*{module.split('.')[0] for module in sys.modules}, file=sys.stderr)"
    )
    done = started(code)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & {*done.stderr.split()}
    assert f"python -m launch.{name} " in done.stdout
    states = re.search(r"^Exit status: (.*)$", done.stdout, re.MULTILINE)
    assert states
    assert re.findall(r"\d+", states[1]) == ["0", "1", "3", "130", "143"]
    assert not re.search(r"exit status is [02-9]", done.stdout.replace("exit status is 0 as long", ""))
    options = re.findall(r"^  --(?:\[no\])?(\w+)", done.stdout, re.MULTILINE)
    assert {*SHOWN.get(name, [])} <= {*options}
    assert not {"logtostderr", "verbosity", "helpfull"} & {*options}  # absl's own


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_ends_well_whatever_else_is_given(program: Program, option: str) -> None:
    done = program("-m", "launch.pretrain", "--config=absent.py", "--config.nothing=1", option)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config=" in done.stdout


def test_help_shows_every_field_with_its_comment_and_default() -> None:
    page = help_page.text("", [flags.Flag(flags.ArgumentParser(), None, "config", None, "a file")])
    flat = " ".join(page.split())
    for name, _, value in EVERY_FIELD:
        assert re.search(rf"{re.escape(name)}: [^=]+ = {re.escape(repr(value))} \S", flat), name
    for group in (Config(), *Config().groups.values()):
        about = help_page.comments(type(group))
        plain = {name for name, kind in field_types(type(group)).items() if not dataclasses.is_dataclass(kind)}
        assert {*about} == plain
        assert all(" ".join(comment.split()) in flat for comment in about.values())


def test_a_hash_in_a_default_is_no_comment() -> None:
    assert help_page.comments(type(Config().data))["cache_dir"].startswith("folder")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--config", "tiny"]),
        (["--config=configs/none.py"], ["configs/none.py"]),
        (["--config=configs/none.py", "--config.train.steps=3"], ["configs/none.py"]),
        (["--config=tiy"], ["tiy", "tiny"]),
        (["--config=tiny", "--config.train.batchsize=4"], ["train.batchsize", "train.batch_size"]),
        (["--config=tiny", "--config.train.batch_size=4.5"], ["train.batch_size", "4.5"]),
        (["--config=vggsound", "--config.train.workdir={}"], ["data.path", "init_from"]),
        (["--config=tiny", "--config.train.micro_batch=7", "--config.train.workdir={}"], ["train.micro_batch", "7", "64"]),
        (["--config={}/wrong.py", "--config.train.workdir={}"], ["wrong.py:4", "train.batchsize", "train.batch_size"]),
        (["--confg=tiny"], ["confg", "config"]),
        (["--config=tiny", "more"], ["more"]),
    ],
)
def test_what_is_wrong_is_named_in_a_line_or_two(program: Program, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    (tmp_path / "wrong.py").write_text(
        "from avmae_jax.config_files import shipped\ndef get_config():\n    c = shipped('tiny')\n    c.train.batchsize = 3\n    return c\n"
    )
    done = program("-m", "launch.pretrain", *(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) <= 2, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["wrong.py"]  # nothing was generated or claimed


REMOTE = [
    ("pretrain", ["--config=tiny", "--config.train.workdir=gs://bucket/run"]),
    ("finetune", ["--config=finetune_instruments", "--config.init_from", "s3://bucket/run"]),
    ("pretrain", ["--config=gs://bucket/mine.py"]),
    ("convert", ["gs://bucket/w.pth", "out"]),
    ("convert", ["in.pth", "s3://bucket/out"]),
    ("prepare", ["--videos=videos", "--out", "gs://bucket/out"]),
    ("prepare", ["--videos=videos", "--out=out", "--train_list=a.csv,https://bucket/b.csv"]),
    ("predict", ["--model=run", "file:///clip.mp4"]),
    ("report", ["hdfs://bucket/run"]),
]


@pytest.mark.parametrize(("name", "arguments"), REMOTE)
@pytest.mark.process
def test_a_path_of_another_machine_is_refused_in_a_line(name: str, arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"launch.{name}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=time_limit(60), check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.search(r"(gs|s3|https|file|hdfs)://[\w/]+", line)
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_a_platform_without_its_plugin_is_a_line(tmp_path: Path) -> None:
    environment = os.environ | {"JAX_PLATFORMS": "cuda"}
    old = ROOT / "tests/old"
    command = [sys.executable, "-m", "launch.embed", old / "pretrained", f"--data={old / 'prepared'}", f"--out={tmp_path}/x.npz"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=time_limit(60), check=False)
    if done.returncode == 0:
        pytest.skip("JAX has this plugin here")
    assert "JAX_PLATFORMS=cuda" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


UNUSABLE = """
from absl import flags
from launch.common import runtime
flags.FLAGS(["program"])
runtime.start()
import jax
print(jax.default_backend())
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("problem", "parts"),
    [
        ("def initialize(): raise RuntimeError('cuInit(0) failed: error 303\\nand more')", ["CUDA", "GPU", "cuInit(0) failed: error 303"]),
        ("import xla_cuda12.absent", ["xla_cuda12"]),
        ("raise ImportError('libcudart.so.12 is missing')", ["libcudart.so.12"]),
    ],
)
def test_cuda_wheels_without_a_gpu_are_a_line(tmp_path: Path, problem: str, parts: list[str]) -> None:
    """JAX finds its plugins by the name of their package."""
    plugin = tmp_path / "jax_plugins/xla_cuda12"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(f"{problem}\n")
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"} | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", UNUSABLE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=time_limit(60), check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if any(part in line for part in parts)]
    assert len(lines) == 1, done.stderr
    assert all(part in lines[0] for part in parts)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_an_average_past_the_end_is_refused_before_anything_is_read(program: Program) -> None:
    average = ["--config.tune.average_first=1", "--config.tune.average_last=91"]
    done = program("-m", "launch.finetune", "--config=finetune_instruments", *average)
    assert done.returncode == 1
    assert re.search(r"tune\.average_last.*91.*train\.epochs.*90", done.stderr)


def test_a_run_with_a_field_that_no_longer_exists_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model": {}, "data": {}, "train": {"batch_sizes": 3}}))
    with pytest.raises(DatasetError, match=r"config\.json.*train\.batch_sizes.*train\.batch_size"):
        model_flags.run_config(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model": {}, "data": {}, "train": {"batch_size": 3}}))
    assert model_flags.run_config(str(tmp_path / "best")).train.batch_size == 3


@pytest.mark.parametrize("content", ["{}", "[]", "[" * 100_000, '{"model": {}}'])
def test_a_config_json_that_is_no_config_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DatasetError, match=f"{tmp_path}/config.json is no config"):
        model_flags.run_config(str(tmp_path))


@pytest.mark.process
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_wrong_command_line_has_the_same_exit_status(name: str) -> None:
    for arguments in (["--nothing=1"], [] if name == "predict" else ["too", "many", "arguments"]):  # predict takes any number of files
        run = f"runpy.run_module('launch.{name}', run_name='__main__', alter_sys=True)"
        code = f"import runpy, sys; sys.argv = [{name!r}, *{arguments!r}]; {run}"
        done = started(code)
        assert done.returncode == cli.FAILED, done.stderr
        assert done.stdout == ""


def test_the_exit_status_of_several_files() -> None:
    assert [cli.status_of(failed, 3) for failed in range(4)] == [cli.DONE, cli.SOME_FAILED, cli.SOME_FAILED, cli.FAILED]


@pytest.mark.process
@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_is_one_line_in_every_program(number: signal.Signals, name: str) -> None:
    code = (
        f"import os, signal; from launch.common import cli; "
        f"cli.run(lambda argv: os.kill(os.getpid(), {int(number)}), lambda: None, 'Does nothing.')"
    )
    done = started(code)
    assert (done.returncode, done.stderr) == (128 + number, f"stopped by {name}\n")


@pytest.mark.process
@pytest.mark.parametrize("name", ["predict", "prepare"])
def test_ctrl_c_is_one_line_from_the_first_import_on(name: str) -> None:
    """Stops programs after imports that -X importtime reports, of which `launch` is the first one that is ours to change."""
    for last in ("launch", "absl.flags", "absl.app", "launch.common.cli", "rich.console"):
        command, imported = [sys.executable, "-X", "importtime", "-m", f"launch.{name}", "--help"], {""}
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            for line in process.stderr:
                imported.add(line.split("|")[-1].strip())
                if {last, "launch"} <= imported:
                    process.send_signal(signal.SIGINT)
                    break
            rest = [line for line in process.stderr if not line.startswith("import time:")]
        assert rest in (["stopped by Ctrl-C\n"], []), rest
        assert process.returncode == (130 if rest else 0)  # 0: the program was done before


@pytest.mark.process
def test_ctrl_c_leaves_libraries_no_time_to_complain() -> None:
    """Ends at once: at Python's ordinary exit, nanobind would print a line for each object that the interrupt kept alive."""
    code = (
        "import atexit, os, signal, sys\nfrom launch.common import cli\n"
        "atexit.register(print, 'leaked 1 instances', file=sys.stderr)\nprint('before')\n"
        "cli.run(lambda argv: os.kill(os.getpid(), signal.SIGINT), lambda: None, 'Does nothing.')"
    )
    done = started(code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "before\n", "stopped by Ctrl-C\n")


def test_frames_have_one_definition() -> None:
    from avmae_jax.config import Frames

    assert Frames is BatchFrames


@pytest.mark.process
@pytest.mark.parametrize("name", ["_xla_gc_callback", "__del__"])
def test_ctrl_c_is_not_lost_where_python_drops_what_is_raised(name: str) -> None:
    code = (
        "import os, signal, time\nfrom launch.common import cli\n"
        f"def {name}(*_):\n  os.kill(os.getpid(), signal.SIGINT)\n"
        f"Kind = type('Kind', (), {{'__del__': {name}}})\n"
        "def main(argv):\n  Kind()\n  time.sleep(20)\n"
        "cli.run(main, lambda: None, 'Does nothing.')"
    )
    done = started(code)
    assert (done.returncode, done.stderr) == (130, "stopped by Ctrl-C\n")


@pytest.mark.process
def test_what_cant_be_written_is_one_line_in_every_program() -> None:
    code = (
        "from pathlib import Path\nfrom launch.common import cli\nfrom avmae_jax import files\n"
        "cli.run(lambda argv: files.write_text(Path('/dev/full/x'), 'x'), lambda: None, 'Does nothing.')"
    )
    done = started(code)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr


@pytest.mark.process
def test_help_lists_no_option_of_a_library() -> None:
    done = started("import sys; sys.argv[1:] = ['--help']; import runpy; runpy.run_module('launch.prepare', run_name='__main__')")
    assert "--videos" in done.stdout
    assert "tfds" not in done.stdout


def test_a_speed_is_not_told_of_a_moment(capsys: pytest.CaptureFixture[str]) -> None:
    with runtime.progress_bar("reading") as advance:
        for done in range(4):
            advance(done, 0, 3)
    assert "- clips/s" in capsys.readouterr().err
