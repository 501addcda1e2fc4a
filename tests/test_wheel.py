"""Tests what is installed: avmae_jax alone, with its programs and recipes inside, and nothing that only tests need."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.media import write_clip
from tests.support import ROOT, time_limit

pytest.importorskip("setuptools", minversion="77")


def programs_and_recipes() -> list[Path]:
    """Lists what is installed of launch/ and configs/: not launch/space, which others copy into a Space."""
    files = [path for folder in ("launch", "configs") for path in (ROOT / folder).rglob("*.py")]
    return [path for path in files if path.parent.name != "space"]


BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel from a copy, since setuptools leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("avmae_jax", "launch", "configs", "parity"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, timeout=time_limit(300), check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.process
def test_only_the_library_is_at_the_top_and_it_is_whole(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
    modules = {f"avmae_jax/{path.relative_to(ROOT / 'avmae_jax')}" for path in (ROOT / "avmae_jax").rglob("*.py")}
    inside = {f"avmae_jax/{path.relative_to(ROOT)}" for path in programs_and_recipes()}
    tables = {f"avmae_jax/data/decode/tone_tables/{name}.png" for name in ("hlg", "pq")}
    boxed = {f"avmae_jax/weights/boxed/instruments12.{suffix}" for suffix in ("json", "md", "safetensors")}
    page = {f"avmae_jax/demo/static/page.{suffix}" for suffix in ("css", "js")}
    assert names == modules | inside | tables | boxed | page | {"avmae_jax/py.typed"}
    assert wheel.stat().st_size < 1e6 + 4e6


@pytest.mark.process
def test_the_command_and_the_version_are_in_its_notes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        notes = {Path(name).name: opened.read(name).decode() for name in opened.namelist() if ".dist-info/" in name}
    assert "avmae = avmae_jax.cli:main" in notes["entry_points.txt"]
    version = re.search(r"^Version: (.*)$", notes["METADATA"], re.MULTILINE)
    assert version is not None
    assert wheel.name.startswith(f"avmae_jax-{version[1]}-")


@pytest.mark.process
def test_what_is_installed_runs_without_the_clone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "site")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.py").write_text(
        "from avmae_jax.config_files import shipped\n"
        "def get_config():\n    config = shipped('tiny')\n    config.train.micro_batch = 7\n    return config\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); from avmae_jax.cli import main; main()"

    def avmae(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=time_limit(120), check=False)

    page = avmae("pretrain", "--help")
    assert page.returncode == 0, page.stderr
    assert "avmae pretrain" in page.stdout
    assert "--config" in page.stdout
    for recipe, part in (("vggsound", "init_from"), ("configs/mine.py", "train.micro_batch"), ("tiy", "tiny")):
        done = avmae("pretrain", "--config", recipe)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert part in done.stderr
    done = avmae("predict", str(write_clip(tmp_path / "clip.mp4", 1.0)))  # with the model in the box
    assert done.returncode == 0, done.stderr
    assert "instruments12" in done.stdout.splitlines()[0]


def test_programs_import_their_siblings_by_relative_names() -> None:
    absolute = re.compile(r"^\s*(from|import) (launch|configs|tests)\b", re.MULTILINE)
    assert not [path for path in programs_and_recipes() if absolute.search(path.read_text())]
