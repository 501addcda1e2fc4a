"""Names the data of an evaluation in the files that it writes."""

from typing import NamedTuple


class Origin(NamedTuple):
    """Says where evaluated clips come from, as the results name it."""

    data: str = ""  # a folder, or "the built-in set"
    split: str = ""  # "train" | "test"


UNKNOWN = Origin()
