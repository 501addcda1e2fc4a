"""Tests config files: found by path or by a recipe's name, built on each other, refused with file and line."""

import re
import textwrap
from pathlib import Path

import pytest

from avmae_jax.config import Config
from avmae_jax.config_files import load, shipped, shipped_names
from avmae_jax.errors import ConfigError
from tests.support import ROOT, apply

# What each recipe leaves open; the others can be run as they are.
DEMANDING = {
    "finetune_audioset20k": ("data.path", "init_from"),
    "finetune_audioset2m": ("data.path", "init_from"),
    "finetune_pretrained": ("init_from",),
    "finetune_sync": ("data.path", "init_from"),
    "finetune_vggsound": ("data.path", "init_from"),
    "scale_plus": ("data.path",),
    "scale_plus_plus": ("data.path",),
    "sync_vggsound": ("data.path", "init_from"),
    "vggsound": ("data.path", "init_from"),
}


def write(path: Path, body: str, head: str = "from avmae_jax.config_files import shipped") -> Path:
    """Writes a config file: line 1 is `head`, line 2 defines get_config, its body begins in line 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}\ndef get_config():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n")
    return path


@pytest.mark.parametrize("name", shipped_names())
def test_a_recipe_has_its_name_and_begins_with_its_command(name: str) -> None:
    config = load(name)
    assert config == load(str(ROOT / f"configs/{name}.py")) == shipped(name)
    assert config.name == name
    program = "finetune" if name.startswith(("finetune", "linear")) else "pretrain"
    first = (ROOT / f"configs/{name}.py").read_text().splitlines()[0]
    assert first.startswith(f'"""python -m launch.{program} --config configs/{name}.py')
    assert all(f"--config.{field}=" in first for field in config.requires)


@pytest.mark.parametrize("name", shipped_names())
def test_a_recipe_demands_what_it_leaves_open(name: str) -> None:
    config = shipped(name)
    assert config.requires == DEMANDING.get(name, ())
    if name not in DEMANDING:
        return config.validate()
    assert config.data.source == "prepared"
    with pytest.raises(ConfigError) as refused:
        config.validate()
    assert all(field in str(refused.value) for field in config.requires)
    assert "\n" not in str(refused.value)
    for field in config.requires[1:]:
        with pytest.raises(ConfigError, match=re.escape(field)):
            apply(shipped(name), {other: "given" for other in config.requires if other != field}).validate()
    return apply(config, dict.fromkeys(config.requires, "given")).validate()


def test_two_loads_share_nothing() -> None:
    first = shipped("tiny")
    first.train.batch_size = 1
    assert shipped("tiny").train.batch_size != 1


@pytest.mark.parametrize("folder", ["mine", "configs", "configs/deeper"])
def test_a_file_anywhere_builds_on_a_shipped_recipe(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / folder / "long.py", "c = shipped('tiny')\nc.name = 'long'\nc.train.steps = 7\nreturn c")
    expected = apply(shipped("tiny"), {"name": "long", "train.steps": 7})
    assert load(str(path)) == expected
    monkeypatch.chdir(path.parent)
    assert load("long.py") == load("./long.py") == expected


@pytest.mark.parametrize(("name", "near"), [("tiy", "tiny"), ("finetune_vgg", "finetune_vggsound"), ("zzz", "base")])
def test_an_unknown_recipe_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*{near}"):
        load(name)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("c = shipped('tiny')\nc.train.batchsize = 3\nreturn c", ":4: .*train.batchsize.*train.batch_size"),
        ("c = shipped('tiny')\nc.train.batch_size = '3'\nreturn c", ":4: .*train.batch_size.*'3'.*int"),
        ("return shipped('tiyn')", ":3: .*tiyn.*tiny"),
        ("return 1 / 0", ":3: ZeroDivisionError"),
        ("return {}", ": .*dict.*Config"),
        ("return )", ":3: SyntaxError"),
        ("pass", ": .*NoneType.*Config"),
    ],
)
def test_a_wrong_file_is_one_line_with_file_and_line(tmp_path: Path, body: str, parts: str) -> None:
    path = write(tmp_path / "wrong.py", body)
    with pytest.raises(ConfigError) as refused:
        load(str(path))
    assert re.match(re.escape(str(path)) + parts, str(refused.value))
    assert "\n" not in str(refused.value)


def test_a_file_that_builds_on_a_wrong_one_names_the_wrong_one(tmp_path: Path) -> None:
    wrong = write(tmp_path / "wrong.py", "return shipped('nothing at all')")
    path = write(tmp_path / "upon.py", f"return load({str(wrong)!r})", head="from avmae_jax.config_files import load")
    with pytest.raises(ConfigError, match=f"^{re.escape(str(wrong))}:3: "):
        load(str(path))


@pytest.mark.parametrize("name", ["absent.py", "no/such/folder.py", "folder"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=f"{re.escape(str(tmp_path / name))}"):
        load(str(tmp_path / name))


def test_a_file_without_get_config_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "config.json").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"empty\.py.*get_config"):
        load(str(tmp_path / "empty.py"))
    with pytest.raises(ConfigError, match=r"config\.json.*\.py"):
        load(str(tmp_path / "config.json"))


def test_a_config_needs_no_recipe(tmp_path: Path) -> None:
    path = write(tmp_path / "own.py", "return Config(name='own')", head="from avmae_jax.config import Config")
    assert load(str(path)) == Config(name="own")
