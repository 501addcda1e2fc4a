"""Options of the comparisons."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --pretrained."""
    parser.addoption("--pretrained", action="store_true", help="timm's pretrained weights, which it downloads, instead of random ones")
