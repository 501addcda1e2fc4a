"""Evaluates retrieval within a set of clips: audio finds images and images find audio, written and drawn into a folder.

Axis letters: N clips, K kept clips, D width.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.store.reader import frames_of, ids_of, labels_of
from avmae_jax.evals import ranking
from avmae_jax.evals.few_clips import few_clips
from avmae_jax.evals.gallery_rows import section_of
from avmae_jax.evals.origin import UNKNOWN, Origin
from avmae_jax.evals.pair_ranking import Way, rank_clips
from avmae_jax.evals.search import embed_set
from avmae_jax.files import OnProgress, write_json
from avmae_jax.inference.embed import DatasetEmbedder
from avmae_jax.inference.embedding_files import Embeddings
from avmae_jax.plots.gallery import draw_gallery

MODALITIES = ("audio", "image")  # the kinds of vector that retrieval compares


class Selection(NamedTuple):
    """Says which clips take part in a retrieval, and how they are compared."""

    per_class: int = 0  # clips drawn of each class; 0: all clips
    seed: int = 0  # of the drawing, and of which searches of equal rank are shown
    pairs: Way = "diagonal_mean"  # the similarity of clips that have a vector of each frame


ALL_CLIPS = Selection()


class Subset:
    """Gives some of another source's clips."""

    def __init__(self, source: ClipSource, indices: Sequence[int]):
        self._source, self.indices = source, [int(index) for index in indices]
        self.label_names = source.label_names

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Clip:
        return self._source[self.indices[index]]

    @property
    def frames(self) -> int | None:
        """Returns the number of frames that the source was prepared with; None where it doesn't know."""
        return frames_of(self._source)

    def __repr__(self) -> str:
        return f"Subset({self._source!r}, {len(self)} clips)"


def retrieve_into(
    out: str | Path,
    embed: DatasetEmbedder,
    source: ClipSource,
    selection: Selection = ALL_CLIPS,
    origin: Origin = UNKNOWN,
    on_progress: OnProgress = lambda done, failed, files: None,
) -> dict[str, Any]:
    """Evaluates retrieval in both directions, and writes `out`/retrieval.json and some searches as `out`/gallery.png.

    Args:
      out: the folder; created if missing; results of an earlier call are replaced.
      embed: a CAV-MAE, a CAV-MAE Sync or its classifier, for the vectors of MODALITIES.
      source: clips with audio and images.
      selection: which of them take part.
      origin: of the clips, as the JSON names it.
      on_progress: is called with the number of clips that are embedded, 0, and the number of clips.

    Returns:
      What the JSON holds: {"model", "fingerprint", "data", "split", "clips", "frames", "pairs", "warning", "ids", "per_class", "seed",
      "short_classes", "chance", "audio_to_image", "image_to_audio"}. A direction has ranking.RankedDirection.figures and "ranks" in the
      order of "ids". "chance" is what guessing gives; "frames" is how many of each clip are compared, and "pairs" how several are.

    Raises:
      ValueError: if there are no clips, no classes to draw from, or a vector has no direction.
      OSError: if a file can't be written.
    """
    folder, label_names = Path(out).expanduser(), source.label_names
    embedded, source, short = _embed_selected(embed, source, selection, origin, on_progress)
    directions, frames = rank_clips(embedded.vectors, embedded.labels, selection.pairs), embedded.note["frames"]
    chance: dict[str, Any] = dict(ranking.chance(len(embedded.ids)))
    if any(embedded.labels):
        chance["class"] = ranking.class_chance(embedded.labels, len(label_names))
    warning = few_clips(embedded.labels, label_names if any(embedded.labels) else ())
    if warning:
        logging.warning("%s", warning)
    result = {
        **{name: embedded.note[name] for name in ("model", "fingerprint", "data", "split")},
        "clips": len(embedded.ids),
        "warning": warning or None,
        "frames": frames or 1,
        "pairs": selection.pairs if frames else None,
        "per_class": selection.per_class,
        "seed": selection.seed,
        "short_classes": {label_names[label]: members for label, members in short.items()},
        "chance": chance,
        **{direction: {**ranked.figures, "ranks": ranked.ranks.tolist()} for direction, ranked in directions.items()},
        "ids": embedded.ids,
    }
    model = embed.trained.config.model
    sections = [section_of(name, ranked, embedded, source, model, selection.seed) for name, ranked in directions.items()]
    draw_gallery(folder / "gallery.png", sections)
    write_json(folder / "retrieval.json", result)
    return result


def _embed_selected(
    embed: DatasetEmbedder, source: ClipSource, selection: Selection, origin: Origin, on_progress: OnProgress
) -> tuple[Embeddings, ClipSource, dict[int, int]]:
    """Embeds the selected clips that are whole; returns them, the source that they index, and sizes of classes with too few clips."""
    short, drawn = dict[int, int](), dict[str, tuple[int, ...]]()
    if selection.per_class:
        labels, ids = [labels_of(source, index) for index in range(len(source))], ids_of(source)
        rows, short = ranking.draw_per_class(labels, len(source.label_names), selection.per_class, selection.seed)
        drawn = {ids[row]: labels[row] for row in rows}
        source = Subset(source, rows)
    embedded = complete(embed_set(embed, source, origin, on_progress))
    if drawn:
        embedded, fewer = readable(embedded, drawn, selection.per_class)
        short |= fewer
    return embedded, source, short


def complete(embedded: Embeddings) -> Embeddings:
    """Keeps the clips that have audio and an image.

    Raises:
      ValueError: if there are none.
    """
    rows = np.flatnonzero(np.logical_and.reduce([embedded.has[kind] for kind in MODALITIES]))
    if not len(rows):
        raise ValueError("no clip has both audio and an image; retrieval needs pairs")
    if len(rows) < len(embedded.ids):
        logging.warning("%d of %d clips lack audio or images and are left out", len(embedded.ids) - len(rows), len(embedded.ids))
    return keep_rows(embedded, rows)


def readable(embedded: Embeddings, drawn: Mapping[str, tuple[int, ...]], per_class: int) -> tuple[Embeddings, dict[int, int]]:
    """Keeps the drawn clips, without those that a tolerant source returned in place of damaged ones.

    Args:
      embedded: vectors of the clips that were read.
      drawn: the labels of each clip that was drawn, by its id.
      per_class: how many of each class were to be drawn.

    Returns:
      The vectors; and the number of clips of each class that lacks a damaged clip and therefore has fewer than `per_class`. Damaged clips
      are named in the log.

    Raises:
      ValueError: if no drawn clip is left.
    """
    lost = drawn.keys() - set(embedded.ids)
    rows = np.flatnonzero([name in drawn for name in embedded.ids])
    if not len(rows):
        raise ValueError(f"none of the {len(drawn)} clips that were drawn can be read; give another --seed, or mend the data")
    if lost:
        logging.warning("%d of %d drawn clips can't be read and are left out: %s", len(lost), len(drawn), ", ".join(sorted(lost)))
    kept = keep_rows(embedded, rows)
    counts = {label: sum(label in own for own in kept.labels) for label in {label for name in lost for label in drawn[name]}}
    return kept, {label: count for label, count in sorted(counts.items()) if count < per_class}


def keep_rows(embedded: Embeddings, rows: np.ndarray) -> Embeddings:
    """Keeps some of the clips, int64[K] of them."""
    return dataclasses.replace(
        embedded,
        ids=[embedded.ids[row] for row in rows],
        positions=embedded.positions[rows],
        labels=[embedded.labels[row] for row in rows],
        vectors={kind: values[rows] for kind, values in embedded.vectors.items()},
        has={kind: values[rows] for kind, values in embedded.has.items()},
    )
