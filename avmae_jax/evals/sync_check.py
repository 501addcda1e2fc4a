"""Measures on the built-in set how well a model tells by how much audio and image are apart.

It also measures whether the patches most like the audio are the instrument. The generator knows both answers.

Clips are generated anew, longer than those of training: the film is one piece of a clip, the audio another one that begins earlier or
later by a known shift. Clips without an answer have the film of one clip and the audio of another. The calibration is fitted to clips of
the training split that come after those of training, and everything is measured on clips of the held-out one.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avmae_jax.config import DataConfig
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.instruments import INSTRUMENTS, make_clip
from avmae_jax.data.store.reader import Split
from avmae_jax.evals.offset_fitting import Trial, fit_calibration, is_near
from avmae_jax.evals.pointing import heated_clips, pointing
from avmae_jax.files import OnProgress, write_json
from avmae_jax.inference.embed import fingerprint
from avmae_jax.inference.match_over_time import MomentEmbedder, MomentVectors, match_timeline
from avmae_jax.inference.moments import Sizes, moments_of_clip
from avmae_jax.inference.offset import LONGEST, NEAR, Calibration, find_offset
from avmae_jax.inference.offset_files import CALIBRATION, write_calibration
from avmae_jax.plots.match_matrix import draw_match_matrix
from avmae_jax.weights.trained import Trained

SHIFT = 3.0  # seconds by which audio is shifted at most, either way
RESULT, PICTURE = "sync_check.json", "match.png"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Says what is measured."""

    seconds: float = 30.0  # of a clip whose offset is to be found
    rate: float = 8.0  # images a second
    fit_clips: int = 112  # of the training split, after those of training, for the certainty
    clips: int = 84  # held out, for the offset
    pointing_clips: int = 84  # held out, for the heat map of the audio
    seed: int = 0  # of the shifts

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that can't work."""
        least = {"seconds": 4.0, "rate": 1.0, "fit_clips": 4, "clips": 2, "pointing_clips": 2}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {value:g}")


def check_sync_into(
    out: str | Path, trained: Trained, data: DataConfig, plan: Plan, on_progress: OnProgress = lambda done, failed, total: None
) -> dict[str, Any]:
    """Fits the calibration of a model's offsets, measures them and the heat map of the audio, and writes both into a folder.

    Args:
      out: the folder; created if missing. CALIBRATION is what launch.predict --match_timeline reads, RESULT what is returned, PICTURE a
        held-out clip as --match_pictures draws it.
      trained: a model with a match of audio and image.
      data: of the run that trained it, on the built-in set.
      plan: what is measured.
      on_progress: is called with the number of clips done, 0, and the number of all.

    Returns:
      {"model", "fingerprint", "plan", "offset", "place"}; see measure_offsets and pointing.

    Raises:
      ValueError: if the model has no match, wasn't trained on the built-in set, or its window is too long for the clips.
      OSError: if a file can't be written.
    """
    if data.source != "builtin":
        raise ValueError(f"{trained.path} was trained on {data.path}; only of the built-in set are the answers known")
    if Sizes.of(trained.config).window_seconds > plan.seconds / 2:
        raise ValueError(f"seconds is {plan.seconds:g}; clips must be twice as long as the model's window at least")
    folder, embed = Path(out).expanduser(), MomentEmbedder(trained)
    done, total = 0, plan.fit_clips + plan.clips + plan.pointing_clips

    def counted(clips: Iterator[Any]) -> Iterator[Any]:
        nonlocal done
        for clip in clips:
            yield clip
            done += 1
            on_progress(done, 0, total)

    on_progress(0, 0, total)
    unseen = range(data.builtin_train, data.builtin_train + plan.fit_clips)  # clips that the model was trained on match too well
    fitted = fit_calibration(trials_of(list(counted(shifted(embed, data, "train", unseen, plan)))))
    calibration = dataclasses.replace(fitted, rate=plan.rate)
    found = list(counted(shifted(embed, data, "test", range(plan.clips), plan)))
    held_out = trials_of(found)
    place = pointing(counted(heated_clips(MomentEmbedder(trained, heat=True), data, plan.pointing_clips)))
    identity = fingerprint(trained)
    result = {
        "model": trained.path,
        "fingerprint": identity,
        "plan": dataclasses.asdict(plan),
        "offset": measure_offsets(held_out, calibration),
        "place": place,
    }
    write_calibration(folder / CALIBRATION, calibration, identity)
    vectors, shift = found[0]
    title = f"A held-out clip whose audio was moved by {shift:+.2f} s"
    offset = find_offset(*vectors.tracks, calibration=calibration)
    draw_match_matrix(folder / PICTURE, vectors, match_timeline(vectors), offset, title=title)
    write_json(folder / RESULT, result)
    return result


def shifted(
    embed: MomentEmbedder, data: DataConfig, split: Split, numbers: Sequence[int], plan: Plan
) -> Iterator[tuple[MomentVectors, float]]:
    """Yields the vectors of clips of the built-in set whose audio is shifted by a number of seconds that is drawn, and this number."""
    rng = np.random.default_rng([plan.seed, split == "test"])
    for number in numbers:
        seconds = plan.seconds + 2 * SHIFT
        clip = make_clip(
            split,
            number,
            seed=data.builtin_seed,
            seconds=seconds,
            image_size=embed.trained.config.model.image_size,
            frames=round(seconds * plan.rate),
        )
        shift = float(rng.uniform(-SHIFT, SHIFT))
        yield embed(moments_of_clip(cut_apart(clip, SHIFT, plan.seconds, shift), embed.trained.config)), shift


def cut_apart(clip: Clip, start: float, seconds: float, shift: float) -> Clip:
    """Cuts a piece of a clip's film, and a piece of its audio in which everything comes `shift` seconds later than in the film."""
    shown = [number for number, time in enumerate(clip.frame_times) if start <= time < start + seconds]
    first = round((start - shift) * SAMPLE_RATE)
    return clip._replace(
        waveform=clip.waveform[first : first + round(seconds * SAMPLE_RATE)],
        frames=tuple(clip.frames[number] for number in shown),
        frame_times=tuple(clip.frame_times[number] - start for number in shown),
    )


def trials_of(found: Sequence[tuple[MomentVectors, float]]) -> list[Trial]:
    """Makes a trial of each clip, and one without an answer: its film with the audio of a clip of another class and of its own in turn.

    Clips stand in the order of the built-in set, whose classes take turns.
    """
    tracks = [vectors.tracks for vectors, _ in found]
    trials = [Trial(image, audio, shift) for (image, audio), (_, shift) in zip(tracks, found, strict=True)]
    for number, (image, _) in enumerate(tracks):
        other = (number + (len(INSTRUMENTS) if number % 2 and len(tracks) > len(INSTRUMENTS) else 1)) % len(tracks)
        trials.append(Trial(image, tracks[other][1], None))
    return trials


def measure_offsets(trials: Sequence[Trial], calibration: Calibration) -> dict[str, Any]:
    """Measures the offsets found.

    Returns:
      "near": share of the clips with an offset whose likeliest lag is right to NEAR, and "near_error", its standard error; "chance": the
      share that a lag drawn evenly from all that are tried would reach; "median_error", s. "answered": share of these clips that get an
      answer, and "right": the share of the answers that are right to NEAR. "refused": share of the clips without an offset where the answer
      is that one can't tell. "threshold": of the calibration.
    """
    known = [trial for trial in trials if trial.seconds is not None]
    found = [find_offset(trial.image, trial.audio, calibration) for trial in known]
    others = [find_offset(trial.image, trial.audio, calibration) for trial in trials if trial.seconds is None]
    answers = [(each, trial) for each, trial in zip(found, known, strict=True) if each.seconds is not None]
    near = float(np.mean([is_near(*pair) for pair in zip(found, known, strict=True)]))
    errors = [abs(each.likeliest - trial.seconds) for each, trial in zip(found, known, strict=True) if each.likeliest is not None]  # pyright: ignore
    return {
        "clips": len(known),
        "near": near,
        "near_error": float(np.sqrt(near * (1 - near) / len(known))),
        "chance": NEAR / LONGEST,
        "median_error": float(np.median(errors)) if errors else None,
        "answered": len(answers) / len(known),
        "right": float(np.mean([is_near(*pair) for pair in answers])) if answers else None,
        "refused": float(np.mean([each.seconds is None for each in others])),
        "threshold": calibration.threshold,
    }
