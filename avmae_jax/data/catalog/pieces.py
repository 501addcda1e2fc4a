"""Recognises the pieces of one video among the files of a folder, by their names, so that a split doesn't divide the video.

Programs that cut videos call a piece ID_START or ID_START_END, where ID is the video's on YouTube and the times are in seconds or
milliseconds. Names such as guitar_001 or GuitarSolos_2 number recordings instead, which have nothing to do with each other. So a name
counts as a piece's if its ID is one that YouTube could have given and has small and capital letters, and the starts of the video's pieces
are not a running count.
"""

import itertools
import os
import re
from collections.abc import Iterable

# 64 bits in base 64, whose last digit has only four of them; after the Y that some programs add.
_PIECE = re.compile(r"Y?(?P<video>[0-9A-Za-z_-]{10}[048AEIMQUYcgkosw])_(?P<start>[0-9]{1,9}(\.[0-9]{1,9})?)(_[0-9]{1,9}(\.[0-9]{1,9})?)?")


def first_pieces(names: Iterable[str]) -> dict[str, str]:
    """Returns the first piece of the video of each file that is one of several pieces: the one of the earliest start."""
    pieces_of: dict[str, list[tuple[float, str]]] = {}
    for name in names:
        stem = os.path.splitext(name.rsplit("/", 1)[-1])[0]  # noqa: PTH122 - a Path for each is slow
        match = _PIECE.fullmatch(stem)
        if match and re.search("[A-Z]", match["video"]) and re.search("[a-z]", match["video"]):
            pieces_of.setdefault(match["video"], []).append((float(match["start"]), name))
    found: dict[str, str] = {}
    for pieces in map(sorted, pieces_of.values()):
        starts = sorted({start for start, _ in pieces})
        if all(after - before == 1 for before, after in itertools.pairwise(starts)) and len(starts) > 1:
            continue
        found |= {name: pieces[0][1] for _, name in pieces if len(pieces) > 1}
    return found
