"""Writes what a pretraining model fills in: for each clip a PNG, and its audio before and after as WAV."""

from collections.abc import Sequence
from pathlib import Path

from avmae_jax.data.clip import Clip
from avmae_jax.files import file_names
from avmae_jax.inference.griffin_lim import save_wav
from avmae_jax.inference.inpaint import Inpainter
from avmae_jax.plots.reconstructions import reconstructions

SUFFIXES = (".png", "_reconstructed.wav", "_original_mel.wav", "_masked_mel.wav")


def new_places(out: Path, names: Sequence[str], *, overwrite: bool) -> list[Path]:
    """Returns the path of each clip's files without SUFFIXES; raises ValueError if one is there that may not be overwritten."""
    places = [out / name for name in file_names(names)]
    there = [file for place in places for file in _files_at(place) if file.exists()]
    if there and not overwrite:
        raise ValueError(f"{there[0]} exists; give another --out, or --overwrite")
    return places


def inpaint_into(place: Path, inpainter: Inpainter, clip: Clip, seed: int) -> list[str]:
    """Fills in a clip with masks by `seed`, writes its files, and returns their names; a model of images alone writes no audio.

    Raises:
      ValueError: naming the clip, if it can't be filled in, or what the model predicts is no audio; then there is only the PNG.
      OSError: if a file can't be written.
    """
    found = inpainter(clip, seed)
    plot, *wavs = _files_at(place)
    reconstructions(plot, found.panels, [clip.id], norm_pix=inpainter.config.loss.norm_pix)
    try:
        waveforms = inpainter.waveforms(found)
    except ValueError as error:
        raise ValueError(f"{clip.id}, of which {plot} shows what the model predicts: {error}") from error
    if waveforms is None:
        return [str(plot)]
    for wav, waveform in zip(wavs, (waveforms.reconstructed, waveforms.original, waveforms.masked), strict=True):
        save_wav(wav, waveform)
    return [str(plot), *map(str, wavs)]


def _files_at(place: Path) -> list[Path]:
    return [Path(f"{place}{suffix}") for suffix in SUFFIXES]
