"""Computes the match of audio and images along time for the files of launch.predict --match_timeline, and draws it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from avmae_jax.errors import ClipError
from avmae_jax.files import as_text, file_names

from . import match_report, model_flags, runtime

if TYPE_CHECKING:
    from avmae_jax.inference.match_over_time import MatchTimeline, MomentVectors, References
    from avmae_jax.inference.moments import Moment
    from avmae_jax.inference.offset import Calibration, Offset
    from avmae_jax.weights.trained import Trained

HELD_OUT = "held_out"


class Kept:
    """Keeps evenly spread moments of a medium of unknown length while they pass, at least so many if there are, at most twice as many."""

    def __init__(self, count: int):
        """Keeps nothing yet."""
        self.moments: list[tuple[int, Moment]] = []
        self._count, self._stride = count, 1

    def passing(self, moments: Iterator[Moment]) -> Iterator[Moment]:
        """Passes moments on, and keeps some with their numbers."""
        for number, moment in enumerate(moments):
            if number % self._stride == 0:
                self.moments.append((number, moment))
                if len(self.moments) > 2 * self._count:
                    self._stride *= 2
                    self.moments = self.moments[::2]
            yield moment


def match_files(path: str, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Returns a record of each file by the model at a path, and draws what the options ask for; raises what loading the model raises."""
    from avmae_jax.inference.match_over_time import MomentEmbedder

    args = flags.FLAGS
    trained = model_flags.load(path)
    embed = MomentEmbedder(trained, heat=bool(args.explain))
    calibration, references = calibration_of(path, trained), references_of(path, trained)
    names = file_names([file.stem for file in files])
    records = []
    with runtime.progress_bar("matching") as on_progress:
        on_progress(0, 0, len(files))
        for number, file in enumerate(files):
            try:
                content = _one(embed, file, names[number], calibration, references)
            except (ClipError, ValueError) as error:
                reason, stage = (error.reason, error.stage) if isinstance(error, ClipError) else (str(error), "model")
                content = {"error": reason, "stage": stage}
            records.append({"file": as_text(str(file)), **content})
            on_progress(number + 1, sum("error" in entry for entry in records), len(files))
    return records


def _one(embed: Any, file: Path, name: str, calibration: Calibration, references: References | None) -> dict[str, Any]:
    """Returns the record of one file without its name; raises ClipError or ValueError."""
    from avmae_jax.inference.match_over_time import match_timeline
    from avmae_jax.inference.moments import moments_of_file
    from avmae_jax.inference.offset import find_offset

    args = flags.FLAGS
    kept = Kept(6)
    moments = moments_of_file(file, embed.trained.config, args.match_rate)
    vectors = embed(kept.passing(moments) if args.explain else moments)
    timeline = match_timeline(vectors, references)
    offset = find_offset(*vectors.tracks, calibration, args.longest_offset)
    if args.match_pictures:
        _draw_matrix(Path(args.match_pictures).expanduser() / f"{name}.png", vectors, timeline, offset, str(file))
    if args.explain:
        _draw_places(Path(args.explain).expanduser() / f"{name}.png", vectors, kept, str(file))
    return match_report.record_of(timeline, offset, calibration.fitted)


def _draw_matrix(path: Path, vectors: MomentVectors, timeline: MatchTimeline, offset: Offset, title: str) -> None:
    from avmae_jax.plots.match_matrix import draw_match_matrix

    draw_match_matrix(path, vectors, timeline, offset, title=f"Match of audio and image along time: {title}")


def _draw_places(path: Path, vectors: MomentVectors, kept: Kept, title: str) -> None:
    import numpy as np

    from avmae_jax.plots.audio_places import draw_audio_places

    numbers = [number for number, _ in kept.moments]
    images = np.stack([moment.arrays["image"].reshape(moment.arrays["image"].shape[-3:]) for _, moment in kept.moments])
    heat = vectors.heat
    if heat is not None:
        draw_audio_places(path, images, heat[numbers], vectors.times[numbers].tolist(), title=f"Where the audio is: {title}")


def calibration_of(path: str, trained: Trained) -> Calibration:
    """Reads what launch.sync_check wrote for the model at a path, or returns that of models without; raises DatasetError."""
    from avmae_jax.evals.offset_fitting import read_calibration
    from avmae_jax.evals.sync_check import CALIBRATION
    from avmae_jax.inference.embed import fingerprint
    from avmae_jax.inference.offset import UNCALIBRATED

    file = model_flags.results_folder(path, match_report.FOLDER) / CALIBRATION
    if file.is_file():
        return read_calibration(file, fingerprint(trained))
    logging.warning("there is no %s, so offsets are found less often; python -m launch.sync_check %s writes it", file, path)
    return UNCALIBRATED


def references_of(path: str, trained: Trained) -> References | None:
    """Returns the vectors of the other clips of --match_against; None without it.

    Raises:
      AvmaeError: if they can't be read.
      ValueError: if they are of another model, or lack audio or images.
    """
    from avmae_jax.data.sources import open_source
    from avmae_jax.evals.origin import Origin
    from avmae_jax.evals.search import embed_set, require_same_model
    from avmae_jax.inference.embed import DatasetEmbedder
    from avmae_jax.inference.embedding_files import read_embeddings
    from avmae_jax.inference.match_over_time import References

    given = flags.FLAGS.match_against
    if not given:
        return None
    if given == HELD_OUT:
        source = open_source(model_flags.run_config(path).data, "test", "both")
        with runtime.progress_bar("embedding the other clips") as on_progress:
            index = embed_set(DatasetEmbedder(trained, ("audio", "image")), source, Origin(HELD_OUT, "test"), on_progress)
    else:
        index = read_embeddings(given)
        require_same_model(index, trained)
    return References.of(index.vectors)
