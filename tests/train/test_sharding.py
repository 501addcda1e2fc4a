"""The same run on any number of devices, cut in any way."""

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

from avmae_jax.config import Config, MeshConfig
from avmae_jax.data.batches import TrainBatches
from avmae_jax.inference.masked import MaskedPass
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.train import optim, sharding
from avmae_jax.trees import flatten
from tests.support import TINY, Clips, Program, apply

STEPS = 4
CHANGES = TINY | {"loss.contrast_weight": 1.0, "train.steps": STEPS, "train.checkpoint_every": 2}
MESHES = {  # devices -> what is run on them: name -> (data, fsdp, tensor)
    4: {"mixed4": (1, 2, 2), "micro4": (2, 2, 1)},
    1: {"alone": (1, 1, 1)},
    2: {"tensor2": (1, 1, 2), "from4to2": (2, 1, 1), "shard2": (1, 2, 1)},
    8: {"mixed8": (2, 2, 2)},
}

# Trains once for each mesh and prints where the tensors of each run lie.
TRAIN = """
    import json, sys
    from pathlib import Path
    import jax
    from flax import nnx
    from avmae_jax.config import Config
    from avmae_jax.models.cavmae import CAVMAE
    from avmae_jax.train.fitting import Fit
    from avmae_jax.train.loop import Trainer
    from avmae_jax.train.pretraining import PretrainingTask
    from tests.support import Clips, apply

    jax.config.update("jax_numpy_dtype_promotion", "standard")  # see conftest.optax_promotion
    places = {}
    for run in json.loads(sys.argv[1]):
        config = apply(Config(), run["changes"])
        Path(config.train.workdir).mkdir(exist_ok=True)
        model = CAVMAE(config.model, rngs=nnx.Rngs(0))
        task = PretrainingTask(config, None, Path(config.train.workdir))
        trainer = Trainer(config, model, task, Clips(24), None, fit=Fit(run["micro_batch"]))
        if not run["saved"]:
            trainer._save = lambda *_: None
        assert trainer.run()
        leaves = jax.tree_util.tree_leaves_with_path(trainer.state)
        places[run["name"]] = {
            jax.tree_util.keystr(path, simple=True, separator="."): [leaf.shape, leaf.addressable_shards[0].data.shape]
            for path, leaf in leaves
        }
    print(json.dumps([jax.device_count(), places]))
"""


class Runs:
    """What was logged, and where the tensors lay, by the names of MESHES."""

    def __init__(self, root: Path, places: dict[str, dict[str, Any]]):
        self.root, self.places = root, places

    def series(self, name: str, metric: str) -> list[float]:
        rows = map(json.loads, (self.root / name / "metrics.jsonl").read_text().splitlines())
        return [row[metric] for row in rows if row["split"] == "train"]

    def cut(self, name: str, ending: str) -> list[float]:
        """For each tensor whose path ends so: the share of it that one device holds."""
        return [np.prod(part) / np.prod(whole) for path, (whole, part) in self.places[name].items() if path.endswith(ending)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, program: Program) -> Runs:
    root, places = tmp_path_factory.mktemp("meshes"), {}
    for devices, meshes in MESHES.items():
        wanted = []
        for name, (data, fsdp, tensor) in meshes.items():
            if name.startswith("from4"):
                shutil.copytree(root / "mixed4", root / name)
                shutil.rmtree(root / name / "checkpoints" / str(STEPS))
            changes = {"train.workdir": str(root / name), "mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}
            if name == "shard2":
                changes |= {"loss.negatives": "shard", "train.steps": 1}
            wanted.append(
                {
                    "name": name,
                    "changes": CHANGES | changes,
                    "saved": name in ("mixed4", "from4to2"),
                    "micro_batch": 4 if name == "micro4" else 8,
                }
            )
        done = program("-c", textwrap.dedent(TRAIN), json.dumps(wanted), devices=devices)
        assert done.returncode == 0, done.stderr
        count, found = json.loads(done.stdout.splitlines()[-1])
        assert count == devices
        places |= found
    return Runs(root, places)


@pytest.mark.parametrize("name", ["tensor2", "mixed4", "mixed8", "micro4"])
@pytest.mark.parametrize("metric", ["loss", "nce", "mae_audio", "mae_image"])
@pytest.mark.slow
def test_losses_do_not_depend_on_the_devices(runs: Runs, name: str, metric: str) -> None:
    alone = runs.series("alone", metric)
    assert len(alone) == STEPS
    assert len(set(alone)) == STEPS
    np.testing.assert_allclose(runs.series(name, metric), alone, rtol=1e-5)


def test_a_run_goes_on_with_fewer_devices_and_another_mesh(runs: Runs) -> None:
    assert sorted(path.name for path in (runs.root / "from4to2" / "checkpoints").iterdir()) == ["2", "4"]
    assert runs.series("from4to2", "loss")[:2] == runs.series("mixed4", "loss")[:2]
    np.testing.assert_allclose(runs.series("from4to2", "loss"), runs.series("alone", "loss"), rtol=1e-5)


@pytest.mark.slow
def test_parameters_and_moments_are_cut(runs: Runs) -> None:
    kernels = ("attn.qkv.kernel.value", "attn.proj.kernel.value", "mlp.fc1.kernel.value", "mlp.fc2.kernel.value")
    for kernel in kernels:
        found = {name: runs.cut(name, kernel) for name in ("alone", "tensor2", "mixed4", "from4to2", "mixed8")}
        assert {name: set(shares) for name, shares in found.items()} == {
            "alone": {1.0}, "tensor2": {0.5}, "mixed4": {0.25}, "from4to2": {1.0}, "mixed8": {0.25},
        }, kernel  # fmt: skip
        assert len(found["alone"]) == 3 * 4  # weight and two moments, of blocks audio, image, joint and decoder
    assert set(runs.cut("mixed8", "patch_embed.kernel.value")) == {0.5}
    assert set(runs.cut("mixed8", "norm1.main.scale.value") + runs.cut("mixed8", "mask_token.value")) == {1.0}
    whole = {name: sum(np.prod(part) for _, part in places.values()) for name, places in runs.places.items()}
    assert whole["mixed4"] < 0.45 * whole["alone"]


@pytest.mark.slow
def test_negatives_of_a_shard_are_those_of_its_device(runs: Runs) -> None:
    config = apply(Config(), CHANGES)
    model = CAVMAE(config.model, rngs=nnx.Rngs(0))
    batches = TrainBatches(Clips(24), config.model, config.data, 8, config.train.seed)
    batch = {name: jnp.asarray(value) for name, value in next(batches).items() if name != "id"}
    batches.close()
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.train.seed), 0), 0)  # of step 0 and its only part
    out, _ = jax.device_get(nnx.jit(MaskedPass(config).__call__)(model, batch, key))

    def nce(rows: slice) -> float:
        audio, image = (next(iter(out.contrast[name].values())).mean(axis=1)[rows] for name in ("audio", "image"))
        audio, image = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (audio, image))
        logits = image @ audio.T / 0.05
        return float((np.log(np.exp(logits).sum(axis=1)) - np.diagonal(logits)).mean())

    np.testing.assert_allclose(runs.series("alone", "nce")[0], nce(slice(8)), rtol=1e-4)
    np.testing.assert_allclose(runs.series("shard2", "nce")[0], (nce(slice(4)) + nce(slice(4, 8))) / 2, rtol=1e-4)


def test_every_matrix_of_the_model_has_its_place_and_its_moments_the_same() -> None:
    mesh: Any = AbstractMesh((2, 2, 2), sharding.AXES)
    config = apply(Config(), TINY).model
    params, _ = nnx.split_state(
        nnx.eval_shape(lambda: nnx.state(CAVMAE(config, rngs=nnx.Rngs(0)), nnx.Param)), optim.trainable(config), ...
    )

    def placed(tree: Any) -> dict[str, PartitionSpec]:
        paths = jax.tree_util.tree_leaves_with_path(sharding.shardings(tree, mesh))
        return {jax.tree_util.keystr(path, simple=True, separator="."): place.spec for path, place in paths}

    places = placed(params)
    whole = {path for path, spec in places.items() if not any(spec)}
    assert not [path for path in whole if "kernel" in path]
    assert all(path.endswith(("bias.value", "scale.value", "modality.value", "mask_token.value")) for path in whole)
    moments = placed(jax.eval_shape(optax.adam(1e-3).init, params))
    for path, spec in places.items():
        assert [moments[name] for name in moments if name.endswith((f"mu.{path}", f"nu.{path}"))] == [spec] * 2


def test_what_does_not_divide_stays_whole() -> None:
    mesh: Any = AbstractMesh((1, 2, 4), sharding.AXES)
    tree = {
        "attn": {"qkv": {"kernel": jax.ShapeDtypeStruct((32, 3, 6, 5), jnp.float32)}, "qkv_norm": jax.ShapeDtypeStruct((4,), jnp.float32)}
    }
    places = sharding.shardings(tree, mesh)
    assert places["attn"]["qkv"]["kernel"].spec == PartitionSpec("fsdp", None, None, None)
    assert places["attn"]["qkv_norm"].spec == PartitionSpec()


@pytest.mark.parametrize(
    ("config", "shape"),
    [((-1, 1, 1), (8, 1, 1)), ((-1, 2, 2), (2, 2, 2)), ((1, -1, 4), (1, 2, 4)), ((2, 2, 2), (2, 2, 2)), ((1, 1, -1), (1, 1, 8))],
)
def test_one_axis_takes_the_devices_that_are_left(monkeypatch: pytest.MonkeyPatch, config: tuple[int, ...], shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "make_mesh", lambda sizes, axes, **_: AbstractMesh(sizes, axes))
    mesh = sharding.make_mesh(MeshConfig(*config))
    assert tuple(mesh.shape[axis] for axis in ("data", "fsdp", "tensor")) == shape
    assert sharding.batch_shards(mesh) == shape[0] * shape[1]


@pytest.mark.parametrize("config", [(3, 1, 1), (-1, 3, 1), (2, 2, 1), (-1, -1, 1), (0, 1, -1), (-2, 1, 1), (16, 1, 1)])
def test_a_mesh_that_does_not_use_all_devices_is_refused(monkeypatch: pytest.MonkeyPatch, config: tuple[int, ...]) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(ValueError, match=rf"data={config[0]}, fsdp={config[1]}, tensor={config[2]}.* 8 "):
        sharding.make_mesh(MeshConfig(*config))


def test_dotted_paths_are_those_of_the_table() -> None:
    tree = {"a": [nnx.Param(jnp.zeros(1)), {"b": 0.0}]}
    assert list(flatten(tree)) == ["a.0", "a.1.b"]
    with pytest.raises(ValueError, match=r"a\.b"):
        flatten({"a.b": 0.0, "a": {"b": 0.0}})
