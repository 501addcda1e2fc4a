"""Compares gradients and weights by their official names.

A tensor that has no gradient in a file was not reached by its loss. Ours must then be exactly zero, and its weights must stay as they are.
The tensors that the original has and this project's models lack, such as the norms that no pass uses, count as zero and as unchanged.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from avmae_jax.errors import some
from avmae_jax.weights import official
from parity.recorded.arrays import Arrays, GoldenError
from parity.rows import GRADIENT_TOLERANCE, Row, compare

EXACT = 0.0


def gradient_rows(prefix: str, ours: Mapping[str, Any], recorded: Arrays) -> Iterator[Row]:
    """Compares the gradients of all tensors, those included that the file has none of.

    Args:
      prefix: of the rows' names.
      ours: by dotted path, of all parameters that are trained.
      recorded: by official name.
    """
    recorded = official.split_registers(recorded)
    paths = {str(official.name_of(path)): path for path in ours}
    for name, path in paths.items():
        mine = np.asarray(ours[path])
        if name in recorded:
            yield compare(prefix + name, mine, official.convert_tensor(recorded[name], mine.shape), GRADIENT_TOLERANCE)
        else:
            yield compare(f"{prefix}{name} (none)", mine, np.zeros_like(mine), EXACT)
    for name in recorded.keys() - paths.keys():
        _require_known(prefix, name)
        yield compare(prefix + name, np.zeros_like(recorded[name]), recorded[name], GRADIENT_TOLERANCE)


def weight_rows(prefix: str, ours: Mapping[str, Any], before: Arrays, after: Arrays, moved: Arrays) -> Iterator[Row]:
    """Compares the weights after optimizer steps.

    The keys' part of a qkv bias isn't compared; parity/golden.py says why.

    Args:
      prefix: of the rows' names.
      ours: by dotted path, of the whole model.
      before: the weights before the steps, by official name.
      after: those that the file holds after them, by official name.
      moved: those that have a gradient, by official name.

    Raises:
      GoldenError: if some of these are missing after the steps.
    """
    before, after, moved = (official.split_registers(tensors) for tensors in (before, after, moved))
    if missing := sorted(moved.keys() - after.keys()):
        raise GoldenError(f"{prefix} lacks {len(missing)} tensors that have a gradient: {some(missing)}; record them too")
    for name, reference in after.items():
        _require_known(prefix, name)
        path = official.path_of(name)
        if path and path in ours:
            mine = np.asarray(ours[path])
            reference = official.convert_tensor(reference, mine.shape)
        else:
            mine = before[name]
        if name in moved and name.endswith(".attn.qkv.bias"):
            name, mine, reference = f"{name}[q, v]", mine.reshape(3, -1)[[0, 2]], reference.reshape(3, -1)[[0, 2]]
            yield compare(prefix + name, mine, reference, GRADIENT_TOLERANCE)
        else:
            yield compare(prefix + name, mine, reference, GRADIENT_TOLERANCE if name in moved else EXACT)


def _require_known(prefix: str, name: str) -> None:
    if official.path_of(name) is None and not official.is_unused(name):
        raise GoldenError(f"{prefix}{name} is no tensor of the model that the file's weights make; take it out or add it to param.*")
