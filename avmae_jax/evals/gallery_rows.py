"""Chooses and words the searches that a retrieval gallery shows.

Axis letters: N clips.
"""

from collections.abc import Sequence

import numpy as np

from avmae_jax.config import ModelConfig
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.rows import centre
from avmae_jax.errors import counted
from avmae_jax.evals import ranking
from avmae_jax.evals.ranking import DIRECTIONS, RankedDirection
from avmae_jax.evals.search import Hits
from avmae_jax.inference.embedding_files import Embeddings
from avmae_jax.plots.gallery import CARDS, Card, Search, Section, Side

_MARKS = {"right": "its own", "class": "same class", "": ""}


def central_audio(clip: Clip, model: ModelConfig) -> Clip:
    """Cuts a clip's audio down to its centre, which is what the model is given in evaluation."""
    start = centre(clip, model)
    return clip._replace(waveform=clip.waveform[start : start + num_samples(model.spectrogram_frames)])


def class_names(labels: Sequence[int], names: Sequence[str]) -> str:
    """Joins the names of a clip's classes."""
    return ", ".join(names[label] for label in labels)


def sample_queries(ranks: np.ndarray, seed: int) -> list[tuple[str, int]]:
    """Picks two of the best queries, two in the middle and two of the worst, fewer of a small set.

    Args:
      ranks: int64[N], of each query's partner.
      seed: decides among queries of equal rank.

    Returns:
      "best", "middle" or "worst", and the query.
    """
    order = np.lexsort((np.random.default_rng(seed).permutation(len(ranks)), ranks))
    middle = len(ranks) // 2
    wanted = [("best", 0), ("best", 1), ("middle", middle - 1), ("middle", middle), ("worst", len(ranks) - 2), ("worst", len(ranks) - 1)]
    chosen: dict[int, str] = {}
    for word, place in wanted:
        if 0 <= place < len(ranks):
            chosen.setdefault(int(order[place]), word)
    return [(word, query) for query, word in chosen.items()]


def section_of(direction: str, ranked: RankedDirection, embedded: Embeddings, source: ClipSource, model: ModelConfig, seed: int) -> Section:
    """Makes the part of the gallery that shows one direction.

    Args:
      direction: of ranking.DIRECTIONS.
      ranked: its ranks.
      embedded: the N clips that were ranked.
      source: the clips that `embedded.positions` index.
      model: how much audio it is given is drawn.
      seed: decides which queries of equal rank are shown.
    """
    queried: Side = "audio" if direction == "audio_to_image" else "image"
    _, other = DIRECTIONS[direction]
    names, clips = source.label_names, len(embedded.ids)

    def clip_at(row: int) -> Clip:
        return central_audio(source[int(embedded.positions[row])], model)

    def card(target: int, score: float, query: int, note: str = "") -> Card:
        mark = "right" if target == query else "class" if set(embedded.labels[target]) & set(embedded.labels[query]) else ""
        words = f"{score:.2f}  {note or _MARKS[mark]}"
        return Card(clip_at(target), (words, class_names(embedded.labels[target], names), embedded.ids[target]), mark)

    searches: list[Search] = []
    for word, query in sample_queries(ranked.ranks, seed):
        tops, rank = ranked.nearest[query, :CARDS], int(ranked.ranks[query])
        cards = [card(int(target), float(score), query) for target, score in zip(tops, ranked.scores[query], strict=False)]
        apart = None
        if query not in tops:
            apart = card(query, float(ranked.own[query]), query, f"its own, rank {rank}")
        classes = class_names(embedded.labels[query], names)
        title = f"{word}: {embedded.ids[query]}{f' ({classes})' if classes else ''}; its own {other} has rank {rank} of {clips}"
        searches.append(Search(title, clip_at(query), queried, cards, apart))
    heading = "Images found by audio" if queried == "audio" else "Audio found by image"
    return Section(heading, searches, _figures(ranked))


def _figures(ranked: RankedDirection) -> str:
    figures, chance = ranked.figures, ranking.chance(len(ranked.ranks))
    shares = ", ".join(f"R@{k} {figures[f'r{k}']:.1%} (chance {chance[f'r{k}']:.1%})" for k in ranking.TOP)
    ties = f", {counted(figures['ties'], 'tie')}" if figures["ties"] else ""
    return f"{shares}; median rank {figures['median_rank']:g} of {figures['clips']}{ties}"


def search_of(clip: Clip, hits: Hits, index: Embeddings, source: ClipSource, model: ModelConfig) -> Search:
    """Makes a row of the gallery for a query from elsewhere.

    Raises:
      ValueError: if the source isn't the one that the index was made of.
    """
    cards: list[Card] = []
    for row, score in zip(map(int, hits.rows[:CARDS]), map(float, hits.scores), strict=False):
        position = int(index.positions[row])
        shown = source[position] if position < len(source) else None
        if shown is None or shown.id != index.ids[row]:
            raise ValueError(f"{source} isn't what the index was made of: its clip {position} isn't {index.ids[row]}; give the right one")
        lines = f"{score:.2f}", class_names(index.labels[row], source.label_names), index.ids[row]
        cards.append(Card(central_audio(shown, model), lines))
    return Search(title_of(clip, hits), clip, hits.queried, cards)


def title_of(clip: Clip, hits: Hits) -> str:
    """Names a query from elsewhere, and what was searched by which side of it."""
    return f"{clip.id}: {'images nearest to its audio' if hits.queried == 'audio' else 'audio nearest to its image'}"
