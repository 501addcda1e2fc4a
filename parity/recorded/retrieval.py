"""Computes from a file's own vectors what retrieval makes of them, and where windows of audio lie, by the recorded names."""

import dataclasses
import re
from typing import Any

import numpy as np

from avmae_jax.config import ModelConfig
from avmae_jax.data.pairs import window_starts
from avmae_jax.evals.pair_ranking import WAYS, pair_similarities, rank_pairs
from avmae_jax.evals.ranking import DIRECTIONS
from parity.recorded.arrays import Arrays

_CLIP = {"clip_frames": 1024, "window_rate": 102.4}  # of the originals: 10 s, taken for 1024 frames


def similarities(arrays: Arrays) -> dict[str, Any]:
    """Computes "sim_<direction>_<way>" and "retrieval_<direction>_<way>", R@1, R@5, R@10 and the median rank, of the recorded vectors.

    The vectors are those of the file, so that their rounding can't turn a rank. Nothing is returned without them.
    """
    vectors = {modality: arrays.get(f"out.feat_{modality}", np.zeros(0)) for modality in ("audio", "image")}
    if any(each.ndim != 3 for each in vectors.values()):
        return {}
    found = {}
    for way in WAYS:
        ranked = rank_pairs(vectors, way=way)
        for direction, (query, target) in DIRECTIONS.items():
            rows = [scores for _, scores in pair_similarities(vectors[query], vectors[target], way)]
            found[f"sim_{direction}_{way}"] = np.concatenate(rows)
            figures = ranked[direction].figures
            found[f"retrieval_{direction}_{way}"] = np.array([figures[name] for name in ("r1", "r5", "r10", "median_rank")])
    return found


def windows(arrays: Arrays) -> dict[str, np.ndarray]:
    """Computes "windows_<images>x<T>" of those sizes that the file has: start and end of the window of each image, int[F, 2]."""
    found = {}
    for name in arrays:
        if size := re.fullmatch(r"out\.(windows_(\d+)x(\d+))", name):
            images, length = int(size[2]), int(size[3])
            config = dataclasses.replace(ModelConfig(), audio_frames=length, **_CLIP)
            starts = window_starts(np.arange(images) * 10 / images, config)
            found[size[1]] = np.stack([starts, starts + length], axis=1)
    return found
