"""Which addresses are served, and what a visitor can't make the server do."""

import contextlib
import http.server
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avmae_jax.demo.server import require_free
from tests.support import ROOT

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="no gradio; pip install -e '.[demo]'")


def test_a_port_of_another_program_and_an_address_of_another_machine_are_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"{port}.*--port"):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", 0)
    with pytest.raises(ValueError, match="--host"):
        require_free("192.0.2.1", 0)  # reserved for documentation


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a file that the environment allows gradio to serve."""
    path = tmp_path_factory.mktemp("secret") / "config.json"
    path.write_text("{}")
    return path


@pytest.fixture(scope="module")
def address(secret: Path) -> Iterator[str]:
    """Serves the page in a program of its own, with an environment that would open it."""
    with page_alone(GRADIO_ALLOWED_PATHS=str(secret.parent)) as found:
        yield found


@contextlib.contextmanager
def page_alone(*needs: str, **environment: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.demo.page_alone", *needs]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Serves a file under an address that the page's program takes for a public one; yields it and the paths that were fetched."""
    fetched: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from elsewhere")

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - as in the standard library

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://films.example:{server.server_port}/film.mp4", fetched
        server.shutdown()


@needs_gradio
@pytest.mark.process
@pytest.mark.slow
def test_an_address_is_not_passed_on(address: str, elsewhere: tuple[str, list[str]]) -> None:
    url, fetched = elsewhere
    for method in ("GET", "HEAD"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(urllib.request.Request(f"{address}gradio_api/file={url}", method=method))  # noqa: S310 - our own address
        with refused.value as answer:
            assert answer.code == 403
    assert fetched == []


@needs_gradio
@pytest.mark.process
@pytest.mark.slow
def test_an_address_in_the_place_of_a_file_is_not_fetched(address: str, elsewhere: tuple[str, list[str]]) -> None:
    url, fetched = elsewhere
    config = json.loads(ask(f"{address}config"))
    inputs = {each["id"] for each in config["components"] if each["type"] in ("file", "audio")}
    takes_files = [each["id"] for each in config["dependencies"] if inputs & {*each["inputs"]}]
    assert takes_files
    for number in takes_files:
        dropped = {"path": url, "meta": {"_type": "gradio.FileData"}}
        body = json.dumps({"data": [dropped], "fn_index": number, "session_hash": f"visitor{number}"}).encode()
        headers = {"Content-Type": "application/json"}
        ask(urllib.request.Request(f"{address}gradio_api/queue/join", body, headers))  # noqa: S310 - our own address
        said = ask(f"{address}gradio_api/queue/data?session_hash=visitor{number}")
        assert "an address is not fetched" in said, said
    assert fetched == []


@needs_gradio
@pytest.mark.process
@pytest.mark.slow
def test_a_variable_of_the_environment_allows_nothing(address: str, secret: Path) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{address}gradio_api/file={secret}")
    with refused.value as answer:
        assert answer.code == 403


@needs_gradio
@pytest.mark.process
@pytest.mark.slow
def test_a_page_invites_what_its_model_can_use(address: str) -> None:
    assert invited(address) == ("Drop a video, a sound or a picture here", True)
    with page_alone("both") as compares:
        assert invited(compares) == ("Drop a video with sound here", False)


def invited(address: str) -> tuple[str, bool]:
    """Returns what may be dropped, and whether the microphone is offered."""
    parts = {each["type"]: each["props"] for each in json.loads(ask(f"{address}config"))["components"]}
    return parts["file"]["label"], parts["audio"]["visible"]


@needs_gradio
@pytest.mark.process
@pytest.mark.slow
def test_a_file_is_held_before_its_turn_in_the_queue(address: str) -> None:
    dependencies = json.loads(ask(f"{address}config"))["dependencies"]
    given = [each for each in dependencies if {"upload", "stop_recording"} & {event for _, event in each["targets"]}]
    assert [each["queue"] for each in given] == [False, False]


def ask(request: Any) -> str:
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own address
        return answer.read().decode()
