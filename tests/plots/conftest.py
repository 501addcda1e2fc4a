"""Draws plots at one pixel of the file for each one of the page, so that tests find things by the layout's pixels."""

import pytest

from avmae_jax.plots import canvas


@pytest.fixture(autouse=True)
def plain_density(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "DENSITY", 1)
