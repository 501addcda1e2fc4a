"""Turns a folder of videos into a data set that training reads.

    python -m launch.prepare --videos DIR --out DIR

DIR/<class>/<any>.mp4, nested deeper too, gives labelled clips; a flat folder gives clips without labels. A clip's id is its path under DIR.
One clip in ten is held out for testing, chosen by a hash of its id, so that the choice stays when files are added; --test_pattern chooses
by name instead.

A run that was killed goes on where it stopped when the same command is given again. Files that can't be decoded are left out, counted, and
named with the reason, here and in OUT/summary.json; the exit status is 0 as long as at least one clip was written, else 1.
"""

import functools
import hashlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from avmae_jax.data.clip import Clip
from avmae_jax.data.shards import SUMMARY, DatasetError, Job, Summary, write_dataset
from avmae_jax.data.video import ClipError, decode_clip
from launch.runtime import progress_bar

SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")
_IGNORED_NAMED = 5  # ignored files named in the line that counts them


def find_videos(root: Path) -> tuple[list[str], list[str]]:
    """Paths under root, sorted: those with a video's suffix, and those ignored.

    A link to a folder is listed with the videos, since whoever made it meant the videos behind it; it isn't followed and will be refused.
    """
    videos, ignored = [], []
    for folder, subfolders, files in os.walk(root):
        links = [name for name in subfolders if (Path(folder) / name).is_symlink()]
        for name in files + links:
            path = (Path(folder) / name).relative_to(root).as_posix()
            (videos if name in links or path.lower().endswith(SUFFIXES) else ignored).append(path)
    return sorted(videos), sorted(ignored)


def plan_jobs(root: Path, videos: list[str], is_test: Callable[[str], bool]) -> tuple[dict[str, list[Job]], list[str]]:
    """One job a video: id and (path, size, time of change, labels), by split; and the names of the classes.

    Raises:
      DatasetError: if some videos lie in class folders and others don't.
    """
    classes = sorted({path.split("/")[0] for path in videos if "/" in path})
    loose = [path for path in videos if "/" not in path and not (root / path).is_symlink()]
    if classes and loose:
        raise DatasetError(
            f"{root} has class folders ({_text(classes[0])}, ...) and loose videos ({_text(loose[0])}, ...); move the latter away"
        )
    jobs: dict[str, list[Job]] = {"train": [], "test": []}
    for path in videos:
        labels = [classes.index(path.split("/")[0])] if "/" in path else []
        status = (root / path).lstat()
        jobs["test" if is_test(_text(path)) else "train"].append(Job(_text(path), (path, status.st_size, status.st_mtime_ns, labels)))
    return jobs, [_text(name) for name in classes]


def held_out(percent: int, pattern: str) -> Callable[[str], bool]:
    """Whether a clip id belongs to the test split: by pattern where there is one, else by hash."""
    if pattern:
        return lambda clip_id: re.search(pattern, clip_id) is not None
    return lambda clip_id: int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8]) % 100 < percent


def make_clip(job: Job, *, root: str, seconds: float, frame_size: int) -> Clip:
    """Decodes the video of one job; runs in a worker."""
    path, _, _, labels = job.args
    file = Path(root) / path
    if not file.resolve().is_relative_to(root):
        raise ClipError(str(file), "open", f"is a link that leaves {root}")
    if file.is_symlink() and file.is_dir():
        raise ClipError(str(file), "open", "is a link to a folder, which isn't followed")
    return decode_clip(file, clip_id=job.id, labels=labels, seconds=seconds, frame_size=frame_size)


def _text(path: str) -> str:
    """A path as valid Unicode, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _report(out: Path, summary: Summary, ignored: list[str]) -> None:
    written = sum(summary.written.values())
    for failure in summary.failures:
        print(f"failed [{failure.stage}] {failure.file} {failure.reason}")
    if ignored:
        named = ", ".join(map(_text, ignored[:_IGNORED_NAMED])) + (", ..." if len(ignored) > _IGNORED_NAMED else "")
        print(f"ignored {len(ignored)} files that have none of the suffixes {' '.join(SUFFIXES)}: {named}")
    splits = ", ".join(f"{count} {split}" for split, count in summary.written.items())
    print(f"{out}: {written} clips written ({splits}), {len(summary.failures)} failed; see {out / SUMMARY}")


def main(argv: list[str]) -> None:
    """Prepares --videos into --out."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    args = flags.FLAGS
    root, out = Path(args.videos).resolve(), Path(args.out)
    if not root.is_dir():
        sys.exit(f"--videos {args.videos}: there is no such folder")
    if out.resolve().is_relative_to(root):
        sys.exit(f"--out {args.out} lies inside --videos {args.videos}; give a folder elsewhere")
    videos, ignored = find_videos(root)
    if not videos:
        sys.exit(f"--videos {args.videos}: no file in it has one of the suffixes {' '.join(SUFFIXES)} ({len(ignored)} others)")
    settings = {"seconds": args.seconds, "frame_size": args.frame_size}
    try:
        jobs, classes = plan_jobs(root, videos, held_out(args.test_percent, args.test_pattern))
        with progress_bar("preparing") as on_progress:
            summary = write_dataset(
                out,
                name="clips",
                jobs=jobs,
                make=functools.partial(make_clip, root=str(root), **settings),
                label_names=classes,
                settings=settings,
                workers=args.workers,
                shard_size=args.shard_size,
                on_progress=on_progress,
            )
    except DatasetError as error:
        sys.exit(str(error))
    _report(out, summary, ignored)
    sys.exit(0 if any(summary.written.values()) else 1)


def _define_flags() -> None:
    flags.DEFINE_string("videos", None, "folder of videos: <class>/<any>.mp4, or flat", required=True)
    flags.DEFINE_string("out", None, "new folder for the data set", required=True)
    flags.DEFINE_float("seconds", 10.0, "length of a clip; what a video has beyond it isn't read", lower_bound=0.1)
    flags.DEFINE_integer("frame_size", 224, "side of the stored frames in pixels", lower_bound=16)
    flags.DEFINE_integer("workers", len(os.sched_getaffinity(0)), "processes that decode; 0: none but this one", lower_bound=0)
    flags.DEFINE_integer("test_percent", 10, "share of clips held out, chosen by a hash of the id", lower_bound=0, upper_bound=100)
    flags.DEFINE_string("test_pattern", "", "hold out the clips whose id this regular expression is found in, instead of --test_percent")
    flags.DEFINE_integer("shard_size", 256, "clips a shard; at most one shard's work is lost when a run is killed", lower_bound=1)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
