"""Sounds that find pictures and pictures that find sounds: of a whole set, written down and drawn, or of a clip from elsewhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from avmae_jax.data.batches import centre
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.store.reader import ids_of, labels_of
from avmae_jax.evals.ranking import DIRECTIONS, TOP, Found, class_chance, complete, draw_per_class, evaluate, nearest, of_rows
from avmae_jax.files import OnProgress, write_json
from avmae_jax.inference.embed import Embed, fingerprint, note_of
from avmae_jax.inference.embedding_files import Embeddings, collect
from avmae_jax.inference.forward import BATCH
from avmae_jax.plots.gallery import CARDS, Card, Search, Section, Side, draw_gallery
from avmae_jax.weights.trained import Trained


class Chosen:
    """Some of a source's clips."""

    def __init__(self, source: ClipSource, indices: Sequence[int]):
        self._source, self.indices = source, [int(index) for index in indices]
        self.label_names = source.label_names

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Clip:
        return self._source[self.indices[index]]

    def __repr__(self) -> str:
        return f"Chosen({self._source!r}, {len(self)} clips)"


def retrieve_into(
    out: str | Path,
    trained: Trained,
    source: ClipSource,
    *,
    per_class: int = 0,
    seed: int = 0,
    batch_size: int = BATCH,
    data: str = "",
    split: str = "",
    on_progress: OnProgress = lambda *_: None,
) -> dict[str, Any]:
    """Retrieval in both directions, written to `out`/retrieval.json with a picture of some searches, `out`/gallery.png.

    Args:
      out: folder, made if need be; what an earlier call wrote there is replaced.
      trained: a CAV-MAE or its classifier.
      source: clips with sound and pictures.
      per_class: clips drawn of each class, see draw_per_class; 0: all clips.
      seed: of the drawing, and of which searches of equal rank are shown.
      batch_size: clips computed at once.
      data: where the clips are from, for the note.
      split: likewise.
      on_progress: told how many clips are done.

    Returns:
      What the JSON has: {"model", "fingerprint", "data", "split", "clips", "ids", "per_class", "seed", "short_classes", "chance",
      "audio_to_image", "image_to_audio"}. A direction has the fields of metrics.Retrieval, "ranks" in the order of "ids", and "class": how
      often a clip of the query's class, its own partner or another, is among the first 1, 5 and 10. "chance" is what guessing gives.

    Raises:
      ValueError: if there are no clips, or no classes to draw from; see metrics.similarities.
      OSError: if something can't be written.
    """
    folder, short = Path(out).expanduser(), {}
    drawn: dict[str, tuple[int, ...]] = {}
    if per_class:
        labels, ids = [labels_of(source, index) for index in range(len(source))], ids_of(source)
        rows, short = draw_per_class(labels, len(source.label_names), per_class, seed)
        drawn = {ids[row]: labels[row] for row in rows}
        source = Chosen(source, rows)
    kinds = ("audio", "image")
    parts = []
    for part in Embed(trained, kinds, batch_size)(source):
        parts.append(part)
        on_progress(sum(len(part.ids) for part in parts), 0, len(source))
    embedded = complete(collect(parts, note_of(trained, source, kinds, data=data, split=split)))
    if drawn:
        embedded, fewer = readable(embedded, drawn, per_class)
        short |= fewer
    found = {direction: evaluate(embedded, direction) for direction in DIRECTIONS}
    count = len(embedded.ids)
    chance: dict[str, Any] = {f"r{k}": min(1.0, k / count) for k in TOP} | {"median_rank": (count + 1) / 2}
    if any(embedded.labels):
        chance["class"] = class_chance(embedded.labels, len(source.label_names))
    result = {
        **{name: embedded.note[name] for name in ("model", "fingerprint", "data", "split")},
        "clips": count,
        "per_class": per_class,
        "seed": seed,
        "short_classes": {source.label_names[label]: members for label, members in short.items()},
        "chance": chance,
        **{direction: one.figures for direction, one in found.items()},
        "ids": embedded.ids,
    }
    sections = [section_of(direction, one, embedded, source, trained, chance, seed) for direction, one in found.items()]
    draw_gallery(folder / "gallery.png", sections)
    write_json(folder / "retrieval.json", result)
    return result


def readable(embedded: Embeddings, drawn: Mapping[str, tuple[int, ...]], per_class: int) -> tuple[Embeddings, dict[int, int]]:
    """Those of the drawn clips that could be read, without the clips that took the place of damaged ones; see prepared.Tolerant.

    Args:
      embedded: of what the drawing gave.
      drawn: the labels of each clip that was drawn, by its id.
      per_class: how many of each class were to be drawn.

    Returns:
      The vectors; and, of the classes that have fewer than `per_class` for want of a damaged clip, how many they have. Damaged clips are
      named in the log.

    Raises:
      ValueError: if no drawn clip is left.
    """
    lost = drawn.keys() - set(embedded.ids)
    rows = np.flatnonzero([name in drawn for name in embedded.ids])
    if not len(rows):
        raise ValueError(f"none of the {len(drawn)} clips that were drawn can be read; give another --seed, or mend the data")
    if lost:
        logging.warning("%d of %d drawn clips can't be read and take no part: %s", len(lost), len(drawn), ", ".join(sorted(lost)))
    kept = of_rows(embedded, rows)
    counts = {label: sum(label in own for own in kept.labels) for label in {label for name in lost for label in drawn[name]}}
    return kept, {label: count for label, count in sorted(counts.items()) if count < per_class}


def heard(clip: Clip, trained: Trained) -> Clip:
    """The clip with no more of its sound than the model hears in evaluation, its centre."""
    start = centre(clip, trained.config.model)
    return clip._replace(waveform=clip.waveform[start : start + num_samples(trained.config.model.audio_frames)])


def class_words(labels: Sequence[int], names: Sequence[str]) -> str:
    """The classes of a clip, or nothing."""
    return ", ".join(names[label] for label in labels)


def picks(ranks: np.ndarray, seed: int) -> list[tuple[str, int]]:
    """Two of the best queries, two in the middle and two of the worst, fewer of a small set; of equal rank whichever the seed says."""
    order = np.lexsort((np.random.default_rng(seed).permutation(len(ranks)), ranks))
    middle = len(ranks) // 2
    wanted = [("best", 0), ("best", 1), ("middle", middle - 1), ("middle", middle), ("worst", len(ranks) - 2), ("worst", len(ranks) - 1)]
    chosen: dict[int, str] = {}
    for word, place in wanted:
        if 0 <= place < len(ranks):
            chosen.setdefault(int(order[place]), word)
    return [(word, query) for query, word in chosen.items()]


def section_of(
    direction: str, found: Found, embedded: Embeddings, source: ClipSource, trained: Trained, chance: dict[str, Any], seed: int
) -> Section:
    """A direction's part of the gallery."""
    queried: Side
    queried, other = ("audio", "picture") if direction == "audio_to_image" else ("image", "sound")
    names, numbers = source.label_names, found.figures

    def card(target: int, score: float, query: int, note: str = "") -> Card:
        mark = "right" if target == query else "class" if set(embedded.labels[target]) & set(embedded.labels[query]) else ""
        words = f"{score:.3f}  {note or class_words(embedded.labels[target], names)}"
        return Card(heard(source[int(embedded.positions[target])], trained), (words, embedded.ids[target]), mark)

    searches = []
    for word, query in picks(found.ranks, seed):
        tops = found.tops[query, :CARDS]
        cards = [card(int(target), float(score), query) for target, score in zip(tops, found.scores[query], strict=False)]
        apart, rank = None, int(found.ranks[query])
        if query not in tops:
            score = float(embedded.vectors["audio"][query] @ embedded.vectors["image"][query])
            apart = card(query, score, query, f"its own, rank {rank}")
        classes = class_words(embedded.labels[query], names)
        title = f"{word}: {embedded.ids[query]}{f' ({classes})' if classes else ''}; its own {other} has rank {rank} of {len(embedded.ids)}"
        searches.append(Search(title, heard(source[int(embedded.positions[query])], trained), queried, cards, apart))
    shares = ", ".join(f"R@{k} {numbers[f'r{k}']:.1%} (chance {chance[f'r{k}']:.1%})" for k in TOP)
    words = "Pictures found by sound" if queried == "audio" else "Sounds found by picture"
    marks = "green: its own" + ("; blue: of its class" if "class" in numbers else "")
    ties = f", {numbers['ties']} ties" if numbers["ties"] else ""
    return Section(f"{words}: {shares}, median rank {numbers['median_rank']:g} of {numbers['clips']}{ties}; {marks}", searches)


class Hits(NamedTuple):
    """What one side of a query found."""

    queried: Side
    rows: np.ndarray  # int64[k], of the index, the nearest first
    scores: np.ndarray  # float32[k], cosine similarities


def require_same_model(index: Embeddings, trained: Trained) -> None:
    """Raises ValueError if the vectors are another model's."""
    if index.note["fingerprint"] != fingerprint(trained):
        raise ValueError(
            f"the index holds vectors of {index.note['model']}, and {trained.path} has other weights; their vectors can't be compared. "
            "Write the index again with launch.embed"
        )


def search(clips: Sequence[Clip], embed: Embed, index: Embeddings, k: int) -> list[list[Hits]]:
    """The clips of an index whose pictures are nearest to a clip's sound, and whose sounds are nearest to its picture.

    Args:
      clips: each with sound, a picture, or both; what it lacks finds nothing.
      embed: for both kinds of vector, of the model that the index was made with.
      index: vectors of "audio", "image", or both.
      k: how many.

    Returns:
      For each clip a Hits for each side whose other side the index has, sound before picture; there may be none.
    """
    hits: list[list[Hits]] = [[] for _ in clips]
    asked = [embed.one(clip) for clip in clips]
    sides: tuple[tuple[Side, Side], ...] = (("audio", "image"), ("image", "audio"))
    for queried, other in sides:
        having = [number for number, vectors in enumerate(asked) if queried in vectors]
        rows = np.flatnonzero(index.has[other]) if other in index.has else np.zeros(0, np.int64)
        if having and len(rows):  # all queries at once, since the index has to be normalised and sorted for them
            queries = np.stack([asked[number][queried] for number in having])
            for number, found, scores in zip(having, *nearest(queries, index.vectors[other][rows], k), strict=True):
                hits[number].append(Hits(queried, rows[found], scores))
    return hits


def search_of(clip: Clip, hits: Hits, index: Embeddings, source: ClipSource, trained: Trained) -> Search:
    """A row of the gallery for a query from elsewhere.

    Raises:
      ValueError: if the source isn't the one that the index was made of.
    """
    cards = []
    for row, score in zip(hits.rows[:CARDS], hits.scores, strict=False):
        position = int(index.positions[row])
        shown = source[position] if position < len(source) else None
        if shown is None or shown.id != index.ids[row]:
            raise ValueError(f"{source} isn't what the index was made of: its clip {position} isn't {index.ids[row]}; give the right one")
        cards.append(Card(heard(shown, trained), (f"{score:.3f}  {class_words(index.labels[row], source.label_names)}", index.ids[row])))
    words = "its sound is nearest to these pictures" if hits.queried == "audio" else "its picture is nearest to these sounds"
    return Search(f"{clip.id}: {words}", clip, hits.queried, cards)
