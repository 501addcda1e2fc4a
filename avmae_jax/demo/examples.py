"""Writes a few clips of the built-in set as videos, so that a visitor can try the page without a file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.instruments import INSTRUMENTS, make_clip

COUNT = 4
_BLOCK = 1024  # samples


class Example(NamedTuple):
    """Holds a video to try."""

    name: str
    path: Path


def write_examples(folder: Path, label_names: Sequence[str]) -> list[Example]:
    """Writes held-out clips of classes that a model knows, or of any if it knows none of them; takes about a second."""
    known = [name for name in INSTRUMENTS if name in {label.lower() for label in label_names}] or list(INSTRUMENTS)
    count = min(COUNT, len(known))
    chosen = [known[place * len(known) // count] for place in range(count)]
    examples = [Example(name, folder / f"{name}.mp4") for name in chosen]
    for example in examples:
        write_video(example.path, make_clip("test", INSTRUMENTS.index(example.name)))
    return examples


def write_video(path: Path, clip: Clip) -> None:
    """Writes a clip as MP4 that every browser plays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=1)
        audio: Any = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        images = [np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")) for frame in clip.frames]
        video.height, video.width, video.pix_fmt = *images[0].shape[:2], "yuv420p"
        for image in images:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        samples = clip.waveform[: len(images) * SAMPLE_RATE]
        for start in range(0, len(samples), _BLOCK):
            block = av.AudioFrame.from_ndarray(samples[None, start : start + _BLOCK], format="s16", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE, start
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
