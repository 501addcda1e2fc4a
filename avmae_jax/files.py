"""Files that have their name once they are whole, so that nobody ever reads half of one."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NAME = 80  # letters of a file's name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary place beside a file, which takes the file's name after the block, in place of one that is there.

    The folder is made if need be; after an error nothing is left. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """JSON that any reader takes: ValueError for a number that isn't finite; see replacing."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def file_names(names: Sequence[str]) -> list[str]:
    """Names for files, one for each of `names` (paths or ids of clips), no two alike even where case doesn't count.

    Letters that not every file system takes become "_"; a name that is taken gets the next free number: x, x_2, x_3.
    """
    taken: set[str] = set()
    made = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:_NAME].lstrip(".") or "clip"
        chosen, number = plain, 1
        while chosen.lower() in taken:
            number += 1
            chosen = f"{plain}_{number}"
        taken.add(chosen.lower())
        made.append(chosen)
    return made
