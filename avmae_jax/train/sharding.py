"""Decides which device holds which part of every tensor: one table from parameter path to partition, outside the model.

The same table places parameters, the optimizer's moments and a task's own copies of parameters, whose paths end in the parameter's. A mesh
has the axes `data` (copies of the model), `fsdp` (parameters cut into parts) and `tensor` (heads and MLP channels cut into parts); the
batch is cut along the first two.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avmae_jax.config import MeshConfig
from avmae_jax.data.batches import Batch
from avmae_jax.data.fbank import RowByRow, together
from avmae_jax.trees import dotted

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))

# (pattern in the dotted path, partition); the first match counts, everything else is on every device
_TABLE = [
    (r"attn\.qkv\.kernel$", PartitionSpec("fsdp", None, "tensor", None)),  # [D, q/k/v, N, D / N]
    (r"attn\.qkv\.bias$", PartitionSpec(None, "tensor", None)),
    (r"attn\.proj\.kernel$", PartitionSpec("tensor", None, "fsdp")),  # [N, D / N, D]
    (r"mlp\.fc1\.kernel$", PartitionSpec("fsdp", "tensor")),
    (r"mlp\.fc1\.bias$", PartitionSpec("tensor")),
    (r"mlp\.fc2\.kernel$", PartitionSpec("tensor", "fsdp")),
    (r"(patch_embed|embed|head)\.kernel$", PartitionSpec("fsdp", None)),
]


def make_mesh(config: MeshConfig, among: Sequence[Any] | None = None) -> Mesh:
    """Arranges devices, by default all that there are, in a mesh (data, fsdp, tensor).

    Raises:
      ValueError: if the config's product isn't the number of devices.
    """
    sizes, devices = [config.data, config.fsdp, config.tensor], jax.device_count() if among is None else len(among)
    given = [size for size in sizes if size != -1]
    known = 1
    for size in given:
        known *= size
    if len(given) < 2 or any(size < 1 for size in given) or devices % known or (len(given) == 3 and known != devices):
        processes = jax.process_count() if among is None else len({device.process_index for device in among})
        where = f" in {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"mesh is data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}, but there are {devices} devices{where}; "
            "the product must be that number, and one of the three may be -1"
        )
    shape = tuple(devices // known if size == -1 else size for size in sizes)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=among)


def on_own_rows(mesh: Mesh) -> Callable[[RowByRow], RowByRow]:
    """Returns what makes a function of rows into one that each device computes on its own share of a batch, without communication."""
    return partial(jax.shard_map, mesh=mesh, in_specs=BATCH, out_specs=BATCH) if batch_shards(mesh) > 1 else together


def batch_shards(mesh: Mesh) -> int:
    """Returns the number of parts into which the batch is cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def shardings(tree: Any, mesh: Mesh) -> Any:
    """Returns a NamedSharding for each leaf of a pytree of parameters or moments, by its path; an axis that doesn't divide stays whole."""

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = dotted(path)
        spec = next((spec for pattern, spec in _TABLE if re.search(pattern, name)), PartitionSpec())
        fitting = [
            axis if axis is None or leaf.shape[index] % mesh.shape[axis] == 0 else None
            for index, axis in enumerate(spec[: len(leaf.shape)])
        ]
        return NamedSharding(mesh, PartitionSpec(*fitting))

    return jax.tree_util.tree_map_with_path(place, tree)


def initialise(make: Callable[[Any], Any], params: Any, mesh: Mesh) -> Any:
    """Computes a pytree from the parameters, such as the optimizer's moments, with every leaf created where the table places it.

    Leaves never share memory with the parameters, whose buffers the training step donates.
    """
    places = shardings(jax.eval_shape(make, params), mesh)
    return jax.jit(lambda values: jax.tree.map(jnp.copy, make(values)), out_shardings=places)(params)


def own_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Lists the rows of a batch that this process's devices hold, wherever the mesh puts its processes."""
    size = batch_size // batch_shards(mesh)
    return [part * size + row for part in _own_parts(mesh) for row in range(size)]


def put_batch(batch: Batch, mesh: Mesh) -> Any:
    """Puts this process's rows of a batch, see own_rows, on its devices, all but the ids: NumPy arrays -> global arrays [B, ...]."""
    where, parts = NamedSharding(mesh, BATCH), _own_parts(mesh)
    size = len(batch["id"]) // len(parts)

    def put(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:  # slices of the whole array
            place = parts.index((index[0].start or 0) // size)
            return array[place * size : (place + 1) * size]

        return jax.make_array_from_callback((size * batch_shards(mesh), *array.shape[1:]), where, part)

    return {name: put(array) for name, array in batch.items() if name != "id"}


def _own_parts(mesh: Mesh) -> list[int]:
    """Lists the parts of a batch, of all that batch_shards counts, that this process's devices hold."""
    places = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_shards(mesh),))
    return sorted({index[0].start or 0 for index in places.values() if index})
