"""Offers what a pretraining model fills in to be listened to, as evals/listening.py wrote it."""

import io
import re
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avmae_jax.evals.listening import STAGES
from avmae_jax.report.html import grid, heading, missing, paragraph, sound, words
from avmae_jax.report.run_folder import LISTENING, RunFolder, group, is_real, objects

_LARGEST = 1_000_000  # bytes of a file that a page holds
_WORDS = {
    "original": "original",
    "masked": "masked: hidden patches are silent",
    "reconstructed": "reconstructed by the model",
}
_ABOUT = (
    "All three are made from log-mel spectrograms. These have no phases, which Griffin-Lim estimates, so none sounds better than the mel "
    "bank allows: compare the reconstruction with the original beside it."
)
_NORM_PIX = "The run was trained with loss.norm_pix: each hidden patch gets its mean and contrast from the original."


def listening(run: RunFolder) -> str:
    """Shows a row of players for each clip."""
    if run.config["model"].get("modality") == "image":
        return paragraph("A model of images alone has nothing to listen to.")
    clips = objects(run.listening, "clips")
    if not clips:
        return missing("Nothing was made to listen to.", *() if run.holds_out_none else (run.command("report"),))
    parts, size = list[str](), 0
    for clip in clips:
        row, bytes_ = _row(run.folder / LISTENING, clip)
        parts.append(row)
        size += bytes_
    head = [paragraph(_ABOUT), paragraph(_NORM_PIX) if run.listening.get("norm_pix") else ""]
    step = run.listening.get("step")
    if isinstance(step, int) and run.step not in (None, step):
        head.append(
            missing(f"It was made at step {step}; the weights are of step {run.step}. Delete {run.folder / LISTENING} to make it anew.")
        )
    return "".join(head + parts) + paragraph(f"{size / 1000:,.0f} KB of audio, 16-bit at 16 kHz, are part of this page.", soft=True)


def _row(folder: Path, clip: Mapping[str, Any]) -> tuple[str, int]:
    """Returns the players of a clip, and the bytes of their files."""
    players, size, name = list[str](), 0, words(clip.get("id"))
    for stage in STAGES:
        data, seconds = _wav(folder, group(clip, "files").get(stage))
        size += len(data)
        players.append(sound(data, f"{_WORDS[stage]} ({seconds:.1f} s)") if data else missing(f"The {stage} audio of {name} isn't there."))
    hidden = clip.get("hidden")
    share = f", {hidden:.0%} hidden" if is_real(hidden) else ""
    return heading(f"{name}{share}") + grid(players), size


def _wav(folder: Path, name: Any) -> tuple[bytes, float]:
    """Reads a WAV file and its seconds; (b"", 0) if it isn't one. Its name comes from a file, and may not lead out of the folder."""
    if not isinstance(name, str) or not re.fullmatch(r"\w+\.wav", name, re.ASCII):
        return b"", 0.0
    path = folder / name
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return b"", 0.0
        data = path.read_bytes()
        with wave.open(io.BytesIO(data)) as file:
            return data, file.getnframes() / file.getframerate()
    except (OSError, wave.Error, EOFError, ZeroDivisionError):
        return b"", 0.0
