"""Prepares names of files and classes for the screen."""

from rich import markup

from avmae_jax.files import printable


def escape(text: str) -> str:
    """Returns text that rich shows as it is: without markup, and without what a terminal would act on."""
    return markup.escape(printable(text))
