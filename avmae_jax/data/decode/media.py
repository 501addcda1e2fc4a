"""Opens media files with PyAV, and says what is wrong with a file in words.

Files come from strangers, so only plain containers are opened, from local files: playlists that name other files or addresses are not media
here. Decoding uses one thread; many clips are decoded in many processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import av
from av.container import InputContainer
from av.error import FFmpegError

from avmae_jax.errors import ClipError

# Every suffix was tried with a file that was encoded for it.
VIDEO_SUFFIXES = (
    *(".mp4", ".webm", ".mkv", ".mov", ".avi", ".flv", ".m4v", ".ts"),
    *(".wmv", ".asf", ".mpg", ".mpeg", ".vob", ".3gp", ".3g2", ".ogv", ".mts", ".m2ts", ".m2t", ".f4v", ".divx", ".mxf", ".dv", ".mk3d"),
)
AUDIO_SUFFIXES = (  # become clips without an image
    *(".wav", ".flac", ".mp3", ".ogg", ".m4a", ".aac"),
    *(".opus", ".oga", ".wma", ".aiff", ".aif", ".aifc", ".m4b", ".m4r", ".ac3", ".eac3", ".ec3", ".au", ".snd", ".wv", ".mka", ".caf"),
    *(".w64", ".amr", ".mp2", ".tta", ".weba"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # become clips without audio
RANK = {suffix: rank for rank, group in enumerate((VIDEO_SUFFIXES, AUDIO_SUFFIXES, IMAGE_SUFFIXES)) for suffix in group}

# Containers that hold their own content: none that names other files or addresses, such as playlists.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,mxf,dv,wav,w64,aiff,flac,mp3,aac,ac3,eac3,au,wv,caf,amr,tta"


def check_regular(path: str | Path) -> Path:
    """Returns the path of a regular file; raises ClipError for a folder, a pipe, a device, a socket, and what is missing or empty."""
    file = Path(path)
    try:
        if not file.is_file():
            refuse(path, "open", "is not a file" if file.exists() else "does not exist")
        if file.stat().st_size == 0:
            refuse(path, "open", "is empty (0 bytes)")
    except OSError as error:
        refuse(path, "open", f"can't be opened ({error.strerror})")
    return file


@contextmanager
def opened(path: str | Path) -> Iterator[InputContainer]:
    """Opens a file as a container for the block.

    Raises:
      ClipError: if it is missing, empty, or no media file.
    """
    file = check_regular(path)
    with reported(path, "open"):
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        container = av.open(str(file.absolute()), options=options, metadata_errors="replace")  # titles in any encoding
    with container, reported(path, "video"):  # whatever else FFmpeg refuses, such as to scale an image
        yield container


@contextmanager
def reported(path: str | Path, stage: str) -> Iterator[None]:
    """Turns what FFmpeg raises in the block into a ClipError."""
    try:
        yield
    except FFmpegError as error:
        raise failed(path, stage, error) from error


def failed(path: str | Path, stage: str, error: FFmpegError) -> ClipError:
    """Returns what FFmpeg raised as a ClipError."""
    what = "can't be opened as a media file" if stage == "open" else f"can't be decoded: its {stage} is damaged or its codec unknown"
    return ClipError(str(path), stage, f"{what} ({error.strerror})")


def refuse(path: str | Path, stage: str, reason: str) -> NoReturn:
    """Raises a ClipError."""
    raise ClipError(str(path), stage, reason)
