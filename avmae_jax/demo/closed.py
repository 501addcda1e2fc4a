"""Keeps gradio from fetching what visitors name, so that only files that were dropped on the page are read and served.

Gradio takes an address in the place of an upload and downloads it, whatever its size, and passes on any public address that follows
`/gradio_api/file=`: the server would be an open proxy.
"""

from typing import Any, NoReturn

import gradio
from fastapi import Depends, HTTPException, Request
from gradio import processing_utils

_FETCHING = ("async_ssrf_protected_get", "async_ssrf_protected_download")  # all downloads in the place of uploads go through these
_REFUSED = "Only files that are dropped here are read; an address is not fetched."


def close_downloads() -> None:
    """Makes gradio refuse an address in the place of an upload, with a sentence.

    Raises:
      ValueError: if this version of gradio downloads in another way than the one that is closed here.
    """
    for name in _FETCHING:
        if not hasattr(processing_utils, name):
            raise ValueError(f"gradio {gradio.__version__} has no {name}, which must be closed to visitors; install gradio 6.31")
        setattr(processing_utils, name, _refuse_download)


def refused_paths() -> list[Any]:
    """Returns what a FastAPI app depends on to answer 403 where a path holds an address."""
    return [Depends(_refuse_address)]


async def _refuse_download(*_: Any, **__: Any) -> NoReturn:
    raise gradio.Error(_REFUSED, print_exception=False)


def _refuse_address(request: Request) -> None:
    if "://" in request.scope["path"]:
        raise HTTPException(403, _REFUSED)
