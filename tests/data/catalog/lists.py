"""Offers what tests of listings share: videos' ids, empty media files, and the paths that a listing holds."""

from pathlib import Path

from avmae_jax.data.catalog.media_folder import Listing

X, Y, Z = "abcdefghijk", "-_cde_12_30", "Ybcdefghijk"  # as YouTube's ids may look


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    root.mkdir(exist_ok=True)
    return root


def paths(listing: Listing) -> dict[str, str]:
    return {entry.id: entry.path for entries in listing.splits.values() for entry in entries}
