"""Maps high dynamic range (PQ, HLG) to standard video, as FFmpeg's scaler does.

FFmpeg takes 5 to 15 seconds to compute such a mapping, for every file anew. Here a table of 33 colours a side holds it, and colours between
them are interpolated. The tables of the usual primaries, BT.2020, lie in tone_tables as images: FFmpeg 8.1 computed them.
"""

import functools
from fractions import Fraction
from importlib import resources

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from PIL import Image, ImageFilter

HIGH_RANGE = {16: "PQ", 18: "HLG"}  # transfer characteristics of ISO/IEC 23091-2
_STORED = {(16, 9): "pq.png", (18, 9): "hlg.png"}  # by transfer and colour primaries
_TO_SDR = "out_transfer=bt709:out_primaries=bt709:intent=perceptual"
_SIDE = 33  # colours a side of a table


@functools.lru_cache(maxsize=8)
def to_standard_range(transfer: int, primaries: int) -> ImageFilter.Color3DLUT:
    """Returns the mapping for a transfer and colour primaries, by their numbers in ISO/IEC 23091-2."""
    name = _STORED.get((transfer, primaries))
    mapped = _stored(name) if name else computed(transfer, primaries)
    return ImageFilter.Color3DLUT(_SIDE, (mapped.reshape(-1, 3) / 255).ravel().tolist())


def _stored(name: str) -> np.ndarray:
    with resources.files(__package__ or "").joinpath("tone_tables", name).open("rb") as file, Image.open(file) as image:
        return np.asarray(image)


def computed(transfer: int, primaries: int) -> np.ndarray:
    """Lets FFmpeg map all colours of a table: uint8[blue x green, red, 3]."""
    steps = np.linspace(0, 65_535, _SIDE).round().astype(np.uint16)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    colours = VideoFrame.from_ndarray(np.stack([red, green, blue], axis=-1).reshape(_SIDE, _SIDE**2, 3), format="rgb48le")
    colours.color_trc, colours.color_primaries, colours.colorspace, colours.color_range = transfer, primaries, 0, 2
    colours.pts, colours.time_base = 0, Fraction(1, 25)
    graph = Graph()
    source = graph.add_buffer(width=colours.width, height=colours.height, format=colours.format, time_base=colours.time_base)
    graph.link_nodes(source, graph.add("scale", _TO_SDR), graph.add("format", "rgb24"), graph.add("buffersink")).configure()
    graph.push(colours)
    return graph.vpull().to_ndarray(format="rgb24").reshape(_SIDE**2, _SIDE, 3)
