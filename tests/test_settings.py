"""Tests the dotted names of nested fields."""

from avmae_jax.settings import flatten_fields


def test_fields_get_dotted_names_and_an_empty_group_is_kept() -> None:
    nested = {"a": 1, "b": {"c": [1, {"d": 2}], "e": {"f": None}, "g": {}}}
    assert flatten_fields(nested) == {"a": 1, "b.c": [1, {"d": 2}], "b.e.f": None, "b.g": {}}
