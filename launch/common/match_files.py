"""Computes the match of audio and images along time for the files of launch.predict --match_timeline, and draws it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from avmae_jax.errors import ClipError
from avmae_jax.files import as_text, file_names

from . import match_report, model_flags, runtime

if TYPE_CHECKING:
    from avmae_jax.inference.file_match import FileMatch, FileMatcher
    from avmae_jax.inference.match_over_time import References
    from avmae_jax.weights.trained import Trained

HELD_OUT = "held_out"


def match_files(path: str, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Returns a record of each file by the model at a path, and draws what the options ask for; raises what loading the model raises."""
    from avmae_jax.inference.file_match import FileMatcher
    from avmae_jax.inference.match_over_time import MomentEmbedder
    from avmae_jax.inference.offset_files import file_of

    trained = model_flags.load(path)
    matcher = FileMatcher(MomentEmbedder(trained, heat=bool(flags.FLAGS.explain)), references_of(path, trained))
    if not matcher.calibrated:
        words = "there is no %s, so the certainty of offsets is that of another model; python -m launch.sync_check %s fits it"
        logging.warning(words, file_of(trained), path)
    names = file_names([file.stem for file in files])
    records = []
    with runtime.progress_bar("matching") as on_progress:
        on_progress(0, 0, len(files))
        for number, file in enumerate(files):
            try:
                content = _one(matcher, file, names[number])
            except (ClipError, ValueError) as error:
                reason, stage = (error.reason, error.stage) if isinstance(error, ClipError) else (str(error), "model")
                content = {"error": reason, "stage": stage}
            records.append({"file": as_text(str(file)), **content})
            on_progress(number + 1, sum("error" in entry for entry in records), len(files))
    return records


def _one(matcher: FileMatcher, file: Path, name: str) -> dict[str, Any]:
    """Returns the record of one file without its name; raises ClipError or ValueError."""
    args = flags.FLAGS
    found = matcher(file, rate=args.match_rate, longest=args.longest_offset)
    if args.match_pictures:
        from avmae_jax.plots.match_matrix import draw_match_matrix

        path, title = Path(args.match_pictures).expanduser() / f"{name}.png", f"Match of audio and image along time: {file}"
        draw_match_matrix(path, found.vectors, found.timeline, found.offset, title=title)
    if args.explain:
        _draw_places(Path(args.explain).expanduser() / f"{name}.png", found, f"Patches most like the audio: {file}")
    return match_report.record_of(found)


def _draw_places(path: Path, found: FileMatch, title: str) -> None:
    import numpy as np

    from avmae_jax.plots.audio_places import draw_audio_places

    numbers, heat = [number for number, _ in found.shown], found.vectors.heat
    if heat is not None:
        images = np.stack([image for _, image in found.shown])
        draw_audio_places(path, images, heat[numbers], found.vectors.times[numbers].tolist(), title=title)


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
