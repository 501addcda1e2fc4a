"""Turns listed files into clips, as launch.prepare and the TFDS builders do."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from avmae_jax.config import Channels
from avmae_jax.data.catalog.listings import Listing
from avmae_jax.data.clip import Clip
from avmae_jax.data.decode.form import MAX_PIXELS, ClipForm, FrameRule
from avmae_jax.data.decode.many_clips import cut_clips
from avmae_jax.data.decode.media import VIDEO_SUFFIXES
from avmae_jax.data.decode.one_clip import decode_clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.errors import ClipError, DatasetError
from avmae_jax.files import printable

_FILES_A_SHARD = {True: 8, False: 256}  # by whether files are cut into many clips


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Says how a file becomes clips."""

    clip_seconds: float = 10.0  # length of a clip
    clip_stride: float = 0.0  # seconds from clip to clip of a file; 0: the first clip alone
    frames: int = 10  # stored frames of a clip, spread evenly over it
    frame_size: int = 224  # side of the stored frames in pixels
    channels: Channels = "first"  # the first audio channel, or the first that isn't silent where it is; "mean": of all
    allow_missing: bool = False  # files with audio alone or images alone, too
    max_mismatch: float = 2.0  # seconds by which the ends of audio and video may differ
    frame_rule: FrameRule = "time"  # "count": the original's counting on any file
    max_pixels: int = MAX_PIXELS  # larger images are refused before they are decoded

    @property
    def form(self) -> ClipForm:
        """Returns what a clip holds, in the decoder's terms."""
        return ClipForm(
            seconds=self.clip_seconds,
            frames=self.frames,
            frame_size=self.frame_size,
            channels=self.channels,
            allow_missing=self.allow_missing,
            max_mismatch=self.max_mismatch,
            frame_rule=self.frame_rule,
            max_pixels=self.max_pixels,
        )


def spec_of(listing: Listing, root: Path, recipe: Recipe, shard_size: int = 0) -> tuple[DatasetSpec, list[str]]:
    """Returns what a data set of listed files is to hold, and the listed files that the recipe leaves out: audio or images alone.

    Args:
      listing: of the files.
      root: resolved folder of the files.
      recipe: how a file becomes clips.
      shard_size: files a shard; 0: as many as a killed run should redo.

    Raises:
      DatasetError: if the recipe contradicts itself, or nothing is left to be made.
    """
    jobs, left_out = plan_jobs(listing, root, recipe)
    make = functools.partial(make_clips, root=str(root), recipe=recipe)
    size = shard_size or _FILES_A_SHARD[recipe.clip_stride > 0]
    return DatasetSpec(listing.name, jobs, make, listing.label_names, dataclasses.asdict(recipe), listing.missing, size), left_out


def plan_jobs(listing: Listing, root: Path, recipe: Recipe) -> tuple[dict[str, list[Job]], list[str]]:
    """Returns the jobs of each split, and the listed files that the recipe leaves out: audio or images alone.

    A job's args are (path, size, time of change, labels, video, start): a file that has changed makes another plan.

    Raises:
      DatasetError: if the recipe contradicts itself, or nothing is left to be made.
    """
    if recipe.frames < 1:
        raise DatasetError(f"frames is {recipe.frames}; a clip needs at least 1")
    if recipe.clip_stride and recipe.allow_missing:
        raise DatasetError("audio or images alone can't be cut into many clips; prepare them without clip_stride, into another folder")
    if recipe.clip_stride and recipe.frame_rule == "count":
        raise DatasetError("frame_rule is 'count', defined for the first clip of a file alone; leave out clip_stride or frame_rule")
    jobs: dict[str, list[Job]] = {}
    left_out = []
    for split, entries in listing.splits.items():
        jobs[split] = []
        for entry in entries:
            suffix, file = Path(entry.path).suffix.lower(), root / entry.path
            if not recipe.allow_missing and suffix not in VIDEO_SUFFIXES and not file.is_symlink():
                left_out.append(entry.id)
                continue
            status = file.lstat()
            args = (entry.path, status.st_size, status.st_mtime_ns, list(entry.labels), entry.video, entry.start)
            jobs[split].append(Job(entry.id, args))
    if not any(jobs.values()):
        raise DatasetError(f"{listing.name}: there are no clips to write; {_why_empty(listing, left_out)}")
    return jobs, left_out


def _why_empty(listing: Listing, left_out: Sequence[str]) -> str:
    """Says what became of the listed clips, with counts and an example of each."""
    reasons = {
        "missing": "have no media file",
        "list": "are of lines that can't be used",
        "open": "lie in folders that can't be read",
    }
    parts: list[str] = []
    for stage, reason in reasons.items():
        if of_stage := [failure for failure in listing.missing if failure.stage == stage]:
            parts.append(f"{len(of_stage)} {reason} ({of_stage[0].file} {of_stage[0].reason})")
    if listing.unwanted:
        parts.append(f"{listing.unwanted} have none of the wanted labels ({', '.join(listing.label_names[:3])}, ...)")
    if left_out:
        parts.append(f"{len(left_out)} have only audio or only images, which allow_missing accepts ({left_out[0]})")
    return printable(f"of {len(listing.missing) + listing.unwanted + len(left_out)} listed clips, {', '.join(parts)}")


def make_clips(job: Job, *, root: str, recipe: Recipe) -> Iterator[Clip]:
    """Cuts one file into clips.

    Raises:
      ClipError: if the file gives none, or leaves `root`.
    """
    path, _, _, labels, video, start = job.args
    file = Path(root) / path
    try:
        target = file.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise ClipError(str(file), "open", "is a link that leads nowhere") from error
    if not target.is_relative_to(root):
        raise ClipError(str(file), "open", f"is a link that leaves {root}")
    if file.is_symlink() and file.is_dir():
        raise ClipError(str(file), "open", "is a link to a folder, which isn't followed")
    if recipe.clip_stride:
        for clip in cut_clips(file, clip_id=job.id, labels=labels, stride=recipe.clip_stride, form=recipe.form):
            yield clip._replace(video=video, start=start + clip.start)
    else:
        clip = decode_clip(file, clip_id=job.id, labels=labels, form=recipe.form)
        beyond = clip.beyond if clip.beyond >= recipe.clip_seconds / 2 else 0.0  # a shorter rest would be no clip
        yield clip._replace(video=video, start=start, beyond=beyond)
