"""Shows what launch.sync_check measured of a run: how well it tells by how much audio and image are apart, and what its heat maps show."""

from collections.abc import Mapping
from typing import Any

from avmae_jax.evals.sync_check import PICTURE
from avmae_jax.inference.offset_files import FOLDER
from avmae_jax.report.html import heading, image_file, missing, paragraph, table, words
from avmae_jax.report.run_folder import RunFolder, group, is_real

_ABOUT = "Clips of the built-in set whose audio was moved by a known number of seconds, and clips with the audio of another one."
_OFFSET = {
    "near": "the likeliest offset is right to half a second",
    "answered": "an offset is named",
    "right": "of these, right to half a second",
    "refused": "nothing is named, of clips with the audio of another one",
}
_PLACE = {"pointing": "the hottest patch lies on the instrument", "iou": "intersection over union of the heat with the instrument"}


def match_over_time(run: RunFolder) -> str:
    """Shows what is measured, and a picture."""
    found = run.sync_check
    if not found:
        if group(run.config, "data").get("source") != "builtin":
            return paragraph("Only on the built-in set are the answers known, and this run isn't of it.")
        return missing("How well the run tells how far audio and image are apart wasn't measured.", run.command("sync_check"))
    offset, place = group(found, "offset"), group(found, "place")
    rows = [(text, _share(offset.get(name)), _share(offset.get("chance")) if name == "near" else "") for name, text in _OFFSET.items()]
    for name, text in _PLACE.items():
        values = group(place, name)
        rows.append((text, _share(values.get("heat")), _share(values.get("chance"))))
    parts = [paragraph(_ABOUT), table(("measured", "value", "guessing"), rows)]
    picture = run.folder / FOLDER / PICTURE
    if picture.exists():
        parts.append(heading("One of the held-out clips") + image_file(picture, _in_words(found)))
    return "".join(parts)


def _in_words(found: Mapping[str, Any]) -> str:
    near = _share(group(found, "offset").get("near"))
    return f"All images of a clip against all of its audio; the offset is right to half a second in {near} of the clips"


def _share(value: Any) -> str:
    return f"{value:.1%}" if is_real(value) else words(value)
