"""Converts weights: `python -m launch.convert IN OUT [--heads N --decoder_heads N --mel_bins M] [--audio_frames T]`.

IN is the original's .pth (or .pt, .bin), a .safetensors file with the same names, or a run's folder, its checkpoints folder or one step.
OUT tells the format by its suffix: .pth, .pt, .bin, .safetensors, and without one of these a folder of checkpoints. Nothing that exists is
overwritten. What a file is told to hold and doesn't, or the other way round, is listed tensor by tensor; the exit status is 1 then.

A .pth doesn't say how many heads its model has: other numbers than those of the published models are given by the options.
With --audio_frames OUT is a model for sounds of that length, in steps of 10 ms; its positions are interpolated along time.
"""

import sys

import jax
from absl import app, flags

from avmae_jax.errors import WeightsError
from avmae_jax.weights import io
from avmae_jax.weights.io import Weights
from launch.common import runtime


def describe(found: Weights) -> str:
    """What was read, in a line."""
    config, shape = found.config, found.config.shape
    name = "CAV-MAE" if config.modality == "both" else f"{config.modality} model"
    parts = [
        f"{name}, classifier with {found.classes} classes" if found.classes else f"{name}, pretraining model",
        f"{shape.depth} blocks" + (f" ({config.joint_depth} joint)" if config.modality == "both" else ""),
        f"width {shape.width}, {shape.heads} heads",
    ]
    if not found.classes:
        parts.append(f"decoder of {shape.decoder_depth} blocks, width {shape.decoder_width}, {shape.decoder_heads} heads")
    if config.modality != "image":
        parts.append(f"sound of {config.audio_frames} frames x {config.mel_bins} mel bins")
    if config.modality != "audio":
        parts.append(f"pictures of {config.image_size} x {config.image_size}")
    count = sum(tensor.size for tensor in found.params.values())
    return "; ".join([*parts, f"patches of {config.patch}", f"{count / 1e6:.3f} M parameters"])


def main(argv: list[str]) -> None:
    """Converts IN to OUT."""
    if len(argv) != 3:
        raise app.UsageError(f"give IN and OUT, two paths; there are {len(argv) - 1}")
    _, source, out = argv
    runtime.start()
    try:
        io.require_new(out)
        found = io.read(
            source, heads=_HEADS.value, decoder_heads=_DECODER_HEADS.value, mel_bins=_MEL_BINS.value, audio_frames=_AUDIO_FRAMES.value
        )
        print(f"read {source}: {describe(found)}")
        io.write(found, out)
    except WeightsError as error:
        sys.exit(str(error))
    print(f"wrote {out}")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # needs no accelerator, and shouldn't take its memory from a run
    flags.FLAGS.set_gnu_getopt()  # options may follow IN and OUT
    _HEADS = flags.DEFINE_integer("heads", 0, "of the encoder, where IN doesn't say; 0: those of the published model", lower_bound=0)
    _DECODER_HEADS = flags.DEFINE_integer("decoder_heads", 0, "likewise, of the decoder", lower_bound=0)
    _MEL_BINS = flags.DEFINE_integer("mel_bins", 128, "mel bins of the sound, where IN doesn't say", lower_bound=1)
    _AUDIO_FRAMES = flags.DEFINE_integer("audio_frames", None, "length of the sounds that OUT takes, in 10 ms; as in IN if not given")
    app.run(main)
