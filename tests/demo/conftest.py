"""Starts the page of launch.demo and a browser, where both can be had."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, sharing, time_limit


def chromium() -> str:
    """Returns the path of a Chromium that starts; "": there is none. On some systems the name is that of a program that installs one."""
    for path in filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        if subprocess.run([path, "--version"], capture_output=True, timeout=time_limit(60), check=False).returncode == 0:
            return path
    return ""


def missing() -> list[str]:
    """Names what the tests in a browser lack here."""
    found = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
    return found or ([] if chromium() else ["Chromium"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    browsing = [item for item in items if item.get_closest_marker("browser")]
    lacks = missing() if browsing else []
    for item in browsing:
        item.add_marker("process")
        item.add_marker("slow")
        if lacks:
            item.add_marker(pytest.mark.skip(reason=f"no {' and no '.join(lacks)}; pip install -e '.[browser]', apt install chromium"))


@pytest.fixture(scope="session")
def served(compiled: Path) -> Iterator[Any]:
    """Starts `python -m launch.demo` with arguments, and returns the page's address; stops all that were started."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> str:
        command = [sys.executable, "-m", "launch.demo", "--port=0", *map(str, arguments)]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | sharing(compiled), stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line
        return found[0]

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=time_limit(30))


@pytest.fixture(scope="session")
def address(served: Any) -> str:
    """Serves the model in the box."""
    return served("instruments12")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Opens Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # a container's root may not use the sandbox, and no page of others is opened
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page in a window of its own, as a new visitor."""
    contexts = []

    def opened(width: int = 1280, scheme: str = "light", where: str = address) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(1000 * time_limit(120))
        contexts.append(context)
        page = context.new_page()
        page.goto(where)
        page.locator("input[type=file]").first.wait_for(state="attached")
        page.get_by_role("button", name="Example").last.wait_for()  # each kind of element arrives with a script of its own
        return page

    yield opened
    for context in contexts:
        context.close()
