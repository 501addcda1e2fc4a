"""Makes stored pixels of decoded frames: as they look on a screen, scaled and cropped to a square."""

import functools
import io
import threading
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from PIL import Image, ImageOps

from avmae_jax.data.decode.form import MAX_PIXELS
from avmae_jax.data.decode.images import IMAGE_FORMATS, rgb
from avmae_jax.data.decode.media import check_regular, refuse
from avmae_jax.data.decode.tones import HIGH_RANGE, to_standard_range
from avmae_jax.errors import ClipError

_JPEG_QUALITY = 95
_LIMIT = threading.Lock()  # of who has lifted Pillow's limit
_BT2020, _UNKNOWN = 9, 2  # colour primaries, or the matrix, of high dynamic range; what a file leaves open
_OLDEST, _NARROWEST = Fraction(1, 10), 16  # sane shapes of a pixel and of an image; beyond, a pixel is square, an image is cropped first


def shrink(frame: VideoFrame, size: int, aspect: Fraction | None = None) -> np.ndarray:
    """Scales the short side to `size` and crops the centre, upright: uint8[size, size, 3].

    Args:
      frame: of any pixel format. High dynamic range (PQ, HLG) is mapped to the standard one.
      size: side in pixels.
      aspect: width over height of a pixel; None: square.
    """
    aspect = aspect if aspect and _OLDEST <= aspect <= 1 / _OLDEST else Fraction(1)
    frame = _middle(frame) if max(frame.width, frame.height) > _NARROWEST * min(frame.width, frame.height) else frame
    wide = frame.width * float(aspect)
    scale = size / min(wide, frame.height)
    width, height = max(size, round(wide * scale)), max(size, round(frame.height * scale))
    matrix = _BT2020 if frame.color_trc in HIGH_RANGE and frame.colorspace in (_BT2020, _UNKNOWN) else None
    scaled = functools.partial(frame.reformat, width=width, height=height, format="rgb24", interpolation="BILINEAR")
    try:
        small = scaled(src_colorspace=matrix).to_ndarray()
    except OSError:  # reserved or damaged numbers of colours, which FFmpeg refuses; players take the usual ones
        frame.colorspace = frame.color_trc = frame.color_primaries = _UNKNOWN
        small = scaled().to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    square = small[top : top + size, left : left + size]
    if frame.color_trc in HIGH_RANGE:
        primaries = _BT2020 if frame.color_primaries == _UNKNOWN else int(frame.color_primaries)
        square = np.asarray(Image.fromarray(square).filter(to_standard_range(int(frame.color_trc), primaries)))
    return np.ascontiguousarray(_upright(square, frame))


def _middle(frame: VideoFrame) -> VideoFrame:
    """Crops a very long image to its middle; scaled as a whole it would be huge."""
    pixels, side = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), _NARROWEST // 2 * min(frame.width, frame.height)
    top, left = max(0, frame.height - side) // 2, max(0, frame.width - side) // 2
    return VideoFrame.from_ndarray(np.ascontiguousarray(pixels[top : top + side, left : left + side]), format="rgb24")


class Deinterlacer:
    """Joins the fields of interlaced frames; other frames pass as they are."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._shape = (0, 0, "")  # of the frames that the graph takes; others would crash it

    def add(self, frame: VideoFrame) -> Iterable[VideoFrame]:
        """Takes a frame and returns those that are finished: one later, once there was an interlaced one."""
        return self._woven(frame) if self._graph is not None or frame.interlaced_frame else (frame,)

    def _woven(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        shape = frame.width, frame.height, frame.format.name
        if self._graph is not None and shape != self._shape:
            yield from self.finish()
        if self._graph is None:
            if not frame.interlaced_frame:
                yield frame
                return
            self._graph, self._shape = _deinterlacing(frame), shape
        self._graph.push(frame)
        yield from _pulled(self._graph)

    def finish(self) -> Iterator[VideoFrame]:
        """Yields the last frame."""
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.push(None)
            yield from _pulled(graph)


def _pulled(graph: Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return


def _deinterlacing(frame: VideoFrame) -> Graph:
    graph = Graph()
    time_base = frame.time_base or Fraction(1, 25)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    weave = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    graph.link_nodes(source, weave, graph.add("buffersink")).configure()
    return graph


def _upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Applies the display matrix that cameras write: any composition of quarter turns and mirrorings."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    matrix = np.frombuffer(bytes(data), np.int32).reshape(3, 3)  # 16.16 fixed point; (x', y') = (x, y) @ matrix[:2, :2]
    if abs(int(matrix[0, 1])) > abs(int(matrix[0, 0])):
        image = image.swapaxes(0, 1)
        flip_x, flip_y = matrix[1, 0] < 0, matrix[0, 1] < 0
    else:
        flip_x, flip_y = matrix[0, 0] < 0, matrix[1, 1] < 0
    image = image[:, ::-1] if flip_x else image
    return image[::-1] if flip_y else image


def shrink_image(path: str | Path, size: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Scales and crops an image file as `shrink` does a frame: uint8[size, size, 3].

    Raises:
      ClipError: if it isn't one, has more pixels than max_pixels, or is damaged.
    """
    check_regular(path)
    try:
        with _opened(path) as opened_image:
            width, height = opened_image.size
            if width * height > max_pixels:
                refuse(path, "video", f"is an image of {width} x {height} pixels; max_pixels is {max_pixels}")
            image = rgb(ImageOps.exif_transpose(opened_image))
    except ClipError:
        raise
    except Exception as error:  # Pillow lets pass whatever a damaged header makes it raise
        refuse(path, "video", f"can't be decoded as an image ({error})")
    return shrink(VideoFrame.from_image(image), size)


def _opened(path: str | Path) -> Image.Image:
    """Opens an image without the limit that Pillow has for the whole process, so that max_pixels alone decides."""
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=IMAGE_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encodes uint8[H, W, 3] as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
