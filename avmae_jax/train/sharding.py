"""Where every tensor lies: one table from parameter path to partition, outside the model.

The same table places parameters and the optimizer's moments, whose paths end in the parameter's. A mesh has the axes `data` (copies of the
model), `fsdp` (parameters cut into parts) and `tensor` (heads and MLP channels cut into parts); the batch is cut along the first two.
"""

import re
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avmae_jax.config import MeshConfig
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


def make_mesh(config: MeshConfig) -> Mesh:
    """The devices as a mesh (data, fsdp, tensor).

    Raises:
      ValueError: if the config's product isn't the number of devices.
    """
    sizes, devices = [config.data, config.fsdp, config.tensor], jax.device_count()
    given = [size for size in sizes if size != -1]
    known = 1
    for size in given:
        known *= size
    if len(given) < 2 or any(size < 1 for size in given) or devices % known or (len(given) == 3 and known != devices):
        raise ValueError(
            f"mesh is data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}, but there are {devices} devices; "
            "the product must be that number, and one of the three may be -1"
        )
    return jax.make_mesh(tuple(devices // known if size == -1 else size for size in sizes), AXES, axis_types=(AxisType.Auto,) * 3)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the batch is cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for each leaf of a pytree of parameters or moments, by its path; a part that doesn't divide stays whole."""

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = dotted(path)
        spec = next((spec for pattern, spec in _TABLE if re.search(pattern, name)), PartitionSpec())
        fitting = [
            axis if axis is None or leaf.shape[index] % mesh.shape[axis] == 0 else None
            for index, axis in enumerate(spec[: len(leaf.shape)])
        ]
        return NamedSharding(mesh, PartitionSpec(*fitting))

    return jax.tree_util.tree_map_with_path(place, tree)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This host's share of a batch onto its devices: a pytree of NumPy arrays [B / hosts, ...] -> global arrays [B, ...]."""
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(NamedSharding(mesh, BATCH), array), batch)
