"""Makes what a pretraining model fills in audible: for a few clips the original, the masked and the reconstructed spectrogram as audio."""

from pathlib import Path
from typing import Any

import numpy as np

from avmae_jax.data.clip import SAMPLE_RATE, ClipSource
from avmae_jax.evals.origin import Origin
from avmae_jax.files import write_json
from avmae_jax.inference.griffin_lim import save_wav
from avmae_jax.inference.inpaint import Inpainter
from avmae_jax.weights.trained import Trained

LISTENING = "listening.json"
STAGES = ("original", "masked", "reconstructed")
CLIPS, SECONDS = 2, 5.0  # of a page, which holds 32 KB a second of each stage


def listen_into(out: Path, trained: Trained, source: ClipSource, origin: Origin) -> dict[str, Any]:
    """Writes the three stages of a few clips as OUT/<number>_<stage>.wav, and OUT/listening.json about them.

    Args:
      out: the folder; created if missing; results of an earlier call are overwritten.
      trained: a pretraining model of audio, alone or with images.
      source: clips with what the model needs.
      origin: of the clips, as the JSON names it.

    Returns:
      What listening.json holds.

    Raises:
      ValueError: if the model is none of audio, or what it predicts is no audio.
      OSError: if the files can't be written.
    """
    inpainter = Inpainter(trained)
    clips = list[dict[str, Any]]()
    for number in range(min(CLIPS, len(source))):
        clip = source[number * len(source) // CLIPS]
        found = inpainter(clip, seed=number)
        waveforms = inpainter.waveforms(found)
        if waveforms is None:
            raise ValueError(f"{trained.path} is a {trained.spec.title} of images alone, which can't be listened to")
        files = {stage: f"{number}_{stage}.wav" for stage in STAGES}
        for stage, file in files.items():
            save_wav(out / file, getattr(waveforms, stage)[: round(SECONDS * SAMPLE_RATE)])
        hidden = found.panels["audio"].hidden[0, :, : found.frames]
        clips.append({"id": clip.id, "files": files, "hidden": float(np.mean(hidden))})
    content = {"model": trained.path, "step": trained.step, **origin._asdict(), "norm_pix": inpainter.config.loss.norm_pix, "clips": clips}
    write_json(out / LISTENING, content)
    return content
