"""Serves the page on this machine, without a word to any other one."""

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avmae_jax.demo.answers import Answerer
from avmae_jax.demo.examples import write_examples
from avmae_jax.demo.limits import MEGABYTE
from avmae_jax.demo.visitors import Visitors

# Read when gradio is imported or launched. All other GRADIO_ variables are removed, so that none changes what the page allows.
_SILENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_SHARE": "False", "GRADIO_MCP_SERVER": "False"}
_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "monospace")


@contextlib.contextmanager
def served(answerer: Answerer, about: str, host: str, port: int) -> Iterator[str]:
    """Serves the page during the block, and yields its address; all files of visitors are deleted at the end.

    Variables named GRADIO_ are removed from the environment.
    """
    with tempfile.TemporaryDirectory(prefix="avmae-demo-") as folder:
        uploads = Path(folder) / "uploads"
        for name in [name for name in os.environ if name.startswith("GRADIO_")]:
            del os.environ[name]
        os.environ.update(_SILENT, GRADIO_TEMP_DIR=str(uploads))
        from gradio import themes

        from avmae_jax.demo.closed import close_downloads, refused_paths
        from avmae_jax.demo.page import build, static

        close_downloads()
        examples = write_examples(uploads / "examples", answerer.trained.label_names)
        page = build(answerer, examples, Visitors(uploads), about)
        theme: Any = themes.Default(font=_FONT, font_mono=_MONO)
        _, address, _ = page.launch(
            server_name=host,
            server_port=port or None,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            show_error=False,
            allowed_paths=[],
            max_file_size=answerer.limits.megabytes * MEGABYTE,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None, "dependencies": refused_paths()},
            theme=theme,
            css=static("page.css"),
            head=f"<script>{static('page.js')}</script>",
        )
        threading.Thread(target=answerer.warm_up, args=(examples[0].path,), daemon=True).start()
        try:
            yield address
        finally:
            page.close(verbose=False)


def require_free(host: str, port: int) -> None:
    """Raises ValueError if an address can't be served: another program has the port, or this machine hasn't the address."""
    try:
        with socket.create_server((host, port), reuse_port=False):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{host}:{port} can't be served ({reason}); give another --port, or --port=0 for a free one, or --host") from error


def wait() -> None:
    """Waits until the program is interrupted."""
    threading.Event().wait()
