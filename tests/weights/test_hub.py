"""Tests models of a hub, served on this machine: fetched by id, revision, from the cache and offline, uploaded, and what can't be had."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

import avmae_jax as av
from avmae_jax.errors import WeightsError
from avmae_jax.trees import flatten
from avmae_jax.weights import folder, places
from avmae_jax.weights.facts import Facts, Measured
from avmae_jax.weights.hub import push
from avmae_jax.weights.init_from import initialise_from
from avmae_jax.weights.io import computing_in, read, write
from avmae_jax.weights.io import made as build
from launch.common import model_flags
from tests.support import ODD, made
from tests.weights.files import assert_same
from tests.weights.hub_server import MAIN, Hub, serving

pytest.importorskip("huggingface_hub")
TOKEN = "hf_mine"  # noqa: S105
SETTINGS = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "TRANSFORMERS_OFFLINE")
Environment = Callable[..., None]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """Sets the environment of huggingface_hub, which reads it when it is imported, and makes an empty folder the current one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "huggingface_hub"}

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
            del sys.modules[name]

    def set_all(**values: str) -> None:
        for name in SETTINGS:
            monkeypatch.delenv(name, raising=False)
        for name, value in {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1", **values}.items():
            monkeypatch.setenv(name, value)
        forget()

    yield set_all
    if sys.modules.get("huggingface_hub"):
        close = getattr(importlib.import_module("huggingface_hub"), "close_session", lambda: None)
        close()
    forget()
    sys.modules.update(before)


@pytest.fixture
def hub(environment: Environment, tmp_path: Path) -> Iterator[Hub]:
    """Serves the repository me/small, with code and a pickle beside the model, and a tag with other weights."""
    with serving() as server:
        environment(HF_ENDPOINT=server.address)
        for seed, revision in enumerate((MAIN, "v1")):
            folder.save(made(classes=3, seed=seed), tmp_path / revision, tmp_path)
            files = {path.name: path.read_bytes() for path in (tmp_path / revision).iterdir()}
            files |= {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04cos\nsystem\n", "docs/more.md": b"more"}
            server.repositories.setdefault("me/small", {})[revision] = files
        yield server


def refused(how: Callable[..., object], *arguments: Any, **options: Any) -> str:
    with pytest.raises(WeightsError) as error:
        how(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_id_is_fetched_with_nothing_but_its_three_files_and_kept(hub: Hub, tmp_path: Path) -> None:
    assert_same(read("me/small"), folder.resolved(made(classes=3)))
    assert hub.fetched == {"model.safetensors", "config.json", "README.md"}
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".py", ".bin")]
    assert hub.tokens == {None}
    hub.requests.clear()
    read("me/small")
    assert not hub.fetched  # nothing has changed
    model = build(made(classes=2, seed=9))
    initialise_from(ODD, model, "me/small")
    kernel = "encoder.blocks.0.mlp.fc1.kernel"
    np.testing.assert_array_equal(flatten(nnx.state(model, nnx.Param))[kernel], made(classes=3).params[kernel])
    assert str(places.located("me/small", cache_dir=tmp_path / "other")).startswith(str(tmp_path / "other"))


@pytest.mark.parametrize("how", [lambda: av.load("me/small@v1"), lambda: av.load("me/small", revision="v1")])
def test_a_revision_is_another_model(how: Callable[[], Any], hub: Hub) -> None:
    model = how()
    assert model.label_names == ("class 0", "class 1", "class 2")
    assert model.path.startswith("me/small")
    assert read("me/small@v1").params["head.linear.bias"].tolist() == made(classes=3, seed=1).params["head.linear.bias"].tolist()
    assert "v9" in refused(av.load, "me/small", revision="v9")
    assert "v9" in refused(av.load, "me/small@v9")
    assert all(part in refused(av.load, "me/small@v1", revision="v2") for part in ("v1", "v2"))


def test_what_is_in_the_cache_needs_no_network(hub: Hub, environment: Environment) -> None:
    read("me/small")
    hub.requests.clear()
    environment(HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    assert read("me/small").classes == 3
    assert "HF_HUB_OFFLINE" in refused(read, "me/other")
    environment(HF_ENDPOINT=hub.address)
    assert av.load("me/small", local_files_only=True).classes == 3
    assert "local_files_only" in refused(av.load, "me/other", local_files_only=True)
    assert not hub.requests
    environment(HF_ENDPOINT="http://127.0.0.1:9")  # nobody answers there
    assert read("me/small").classes == 3
    said = refused(read, "me/other")
    assert all(part in said for part in ("me/other", "http://127.0.0.1:9", "cache"))


def test_what_cannot_be_had_is_one_sentence(hub: Hub) -> None:
    assert all(part in refused(read, "me/nothing") for part in ("me/nothing", hub.address, "HF_TOKEN"))
    hub.gated.add("me/gated")
    assert "terms" in refused(read, "me/gated")
    assert "me--x/a..b" in refused(read, "me--x/a..b")
    hub.repositories["me/pickled"] = {MAIN: {"pytorch_model.bin": b"x"}}
    assert "me/pickled" in (said := refused(read, "me/pickled"))
    assert "model.safetensors" in said
    hub.repositories["me/small"][MAIN]["model.safetensors"] = hub.repositories["me/small"]["v1"]["model.safetensors"][:-4]
    assert "damaged" in refused(read, "me/small")


def test_without_the_extra_a_sentence_says_what_to_install(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    environment()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert all(part in refused(read, "me/small") for part in ("me/small", "[hub]"))


def test_a_model_is_put_on_a_hub_with_the_token_of_its_environment(hub: Hub, environment: Environment, tmp_path: Path) -> None:
    environment(HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
    write(made(), tmp_path / "run")
    address = av.load(tmp_path / "run").push_to_hub("me/new", license="mit")
    assert address.startswith(f"{hub.address}/me/new/commit/")
    assert f"Bearer {TOKEN}" in hub.tokens
    files = hub.repositories["me/new"][MAIN]
    assert set(files) == {"model.safetensors", "config.json", "README.md"}
    assert all(part in files["README.md"].decode() for part in ('av.load("me/new")', "license: mit"))
    assert_same(read("me/new"), folder.resolved(computing_in("float32", made())))
    hub.gated.add("me/closed")
    assert "me/closed" in refused(av.load(tmp_path / "run").push_to_hub, "me/closed")


def test_a_model_of_a_hub_is_put_there_again_with_what_its_card_knew(hub: Hub, tmp_path: Path) -> None:
    known = Facts("mit", "360 clips", "4000 steps", (Measured("audio", 72, {"accuracy": 0.75}, {}),))
    folder.save(made(classes=3)._replace(facts=known), tmp_path / "known", tmp_path)
    hub.repositories["me/known"] = {MAIN: {path.name: path.read_bytes() for path in (tmp_path / "known").iterdir()}}
    av.load("me/known").push_to_hub("me/again")
    text = hub.repositories["me/again"][MAIN]["README.md"].decode()
    assert all(part in text for part in ("license: mit", "Trained on 360 clips: 4000 steps", "| audio | 72 | 0.750 |"))


def test_why_a_model_cannot_be_put_on_a_hub_is_one_sentence(hub: Hub, environment: Environment, tmp_path: Path) -> None:
    folder.save(made(), tmp_path / "folder", tmp_path)

    def said(model: str = "me/new") -> str:
        found = refused(push, tmp_path / "folder", model, private=None, branch="", message="m")
        assert f"{model} can't be written to the hub" in found
        assert not any(word in found for word in ("cache", "fetch", "path"))
        return found

    for status in (401, 403):
        hub.refusal = status
        assert all(part in said() for part in (hub.address, str(status), "HF_TOKEN", "hf auth login"))
    hub.refusal = 418
    assert all(part in said() for part in (hub.address, "418"))
    assert "owner/name" in said("me--x/a..b")
    environment(HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    assert "unset it" in said()
    environment(HF_ENDPOINT="http://127.0.0.1:9")  # nobody answers there
    assert all(part in said() for part in ("http://127.0.0.1:9", "HF_ENDPOINT"))
    environment()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "huggingface_hub", None)
        assert "[hub]" in refused(push, tmp_path / "folder", "me/new", private=None, branch="", message="m")


def test_a_local_path_wins_and_a_misspelt_one_is_not_asked_for(hub: Hub, tmp_path: Path) -> None:
    for path in ("me/small.safetensors", "./me/small", "/me/small", "small", "me/small/checkpoints", "~/small", "../me/small"):
        assert not places.is_id(path), path
    assert places.is_id("me/small")
    assert places.is_id(Path("me/small"))
    assert places.results_folder("me/small@v1", "evaluation") == Path("small_evaluation")
    assert model_flags.run_folder("me/small") is None
    Path("me").mkdir()
    assert not places.is_id("me/small")  # `me` is a folder: more likely a path
    assert places.is_id("me/small@main")
    hub.requests.clear()
    refused(read, "me/small")
    write(made(seed=5), "me/small")
    assert_same(read("me/small"), made(seed=5))
    assert "revision" in refused(av.load, "me/small", revision="v1")
    assert "cache_dir" in refused(av.load, "instruments12", cache_dir=tmp_path)
    assert not hub.requests
