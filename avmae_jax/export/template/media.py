"""Decodes media files to the windows that a model sees."""

from itertools import chain

import av
import av.filter
import numpy as np
from av.stream import Disposition

KAISER = "filter_type=kaiser:kaiser_beta=16:filter_size=208:cutoff=0.957"  # the resampler of training, to 0.1 %


def windows(path: str, window, channels):
    """Yields what each window of a file has: its audio and the frame in its middle."""
    rate, seconds, samples = window["sample_rate"], window["seconds"], window["samples"]
    with av.open(path, "r") as media:
        audio = np.concatenate([np.zeros(0, np.int16), *heard(media, rate, channels)]) if media.streams.audio else np.zeros(0, np.int16)
    with av.open(path, "r") as media:
        video = next((stream for stream in media.streams.video if not stream.disposition & Disposition.attached_pic), None)  # no cover
        told = float(video.duration * video.time_base) if video and video.duration and video.time_base else (media.duration or 0) / 1e6
        length = max(len(audio) / rate, told if video else 0)
        starts = [number * seconds for number in range(max(1, int(length / seconds)))]
        starts += [length - seconds] if length - seconds > starts[-1] + 0.04 else []
        images = shown(media.decode(video), [start + min(length, seconds) / 2 for start in starts]) if video else {}
    for number, start in enumerate(starts):
        part = audio[round(start * rate) :][:samples]
        if length >= seconds and len(part) < round(seconds * rate):  # the audio ends before the images
            part = np.pad(part, (0, samples - len(part))) if len(part) else part
        arrays = {"waveform": np.resize(part, samples)[None]} if len(part) >= 400 else {}
        yield arrays | ({"image": images[number][None]} if number in images else {})


def heard(media, rate, channels):
    """Yields the audio of a file, one channel at a rate, as int16."""
    graph, stream = av.filter.Graph(), media.streams.audio[0]
    one = ("aformat", "channel_layouts=mono") if channels == "mean" else ("pan", "mono|c0=c0")
    steps = [("aformat", "sample_fmts=fltp"), one, ("aresample", f"{rate}:{KAISER}"), ("abuffersink", None)]
    graph.link_nodes(graph.add_abuffer(template=stream), *(graph.add(name, options) for name, options in steps)).configure()
    for frame in chain(media.decode(stream), [None]):
        graph.push(frame)
        try:
            while True:
                yield np.clip(np.rint(graph.pull().to_ndarray()[0] * 32768), -32768, 32767).astype(np.int16)
        except (BlockingIOError, EOFError):
            pass


def shown(frames, moments):
    """Returns the frame that is just over at each of some moments, by number."""
    images, last = {}, []
    for frame in frames:
        while last and len(images) < len(moments) and (frame.time or 0) > moments[len(images)]:
            images[len(images)] = upright(last[0])
        last = [*last[-1:], frame]
    return images | {number: upright(last[0]) for number in range(len(images), len(moments)) if last}


def upright(frame):
    """Returns a frame as uint8[H, W, 3], turned as its camera was held."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), getattr(frame, "rotation", 0) // 90))
