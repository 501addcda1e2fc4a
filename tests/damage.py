"""Damages the bytes of any file at random, for fuzz tests, and counts how the damaged files end."""

import random
import resource
import struct
from collections import Counter
from collections.abc import Callable, Mapping

Change = Callable[[bytes, random.Random], bytes]
READ, REFUSED = "read", "refused in a line"  # how a damaged file may end


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def noise(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 40)):
        changed[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(changed)


def splice(content: bytes, rng: random.Random) -> bytes:
    first, second = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:second] + content[first:]


def extremes(content: bytes, rng: random.Random) -> bytes:
    value = rng.choice([b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, bytes(8), struct.pack("<Q", 1 << 40), struct.pack("<I", 1 << 31)])
    at = rng.randrange(len(content))
    return content[:at] + value + content[at + len(value) :]


def inserted(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + rng.choice([b"(", b"[", b"{", b'"', b"\x00", b"9", b"}"]) * rng.choice([1, 8, 50_000]) + content[at:]


CHANGES: tuple[Change, ...] = (cut, flip, noise, splice, extremes, inserted)


def faults(ended: Mapping[str, str]) -> dict[str, str]:
    """Returns what ended in anything but a sane result or a refusal, with how it ended."""
    return {what: how for what, how in ended.items() if how not in (READ, REFUSED)}


def summary(ended: Mapping[str, str]) -> str:
    """Says in a line how many inputs were tried, how they ended, and how much memory the largest process took."""
    counts = Counter(how if how in (READ, REFUSED) else "at fault" for how in ended.values())
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) >> 10
    return f"{len(ended)} inputs: {counts[READ]} {READ}, {counts[REFUSED]} {REFUSED}, {counts['at fault']} at fault; peak {peak} MiB\n"
