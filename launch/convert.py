"""Converts weights between PyTorch files, safetensors files, runs and pretrained folders.

    python -m launch.convert IN OUT [--heads N --decoder_heads N --mel_bins M] [--labels_csv CSV] [--audio_frames T] [--float16]
    python -m launch.convert IN OUT.pth [--prefix module.]
    python -m launch.convert RUN OUT --pretrained [--license apache-2.0]

IN is the original's .pth (or .pt, .bin, .ckpt, .pth.tar), a .safetensors file with the same names, a run's folder, its checkpoints folder
or one step, a pretrained folder, or the id of one on a hub. The suffix of OUT chooses the format: one of these, or without a suffix a
folder of checkpoints. Existing files are never overwritten. If tensors of IN are missing, unexpected or misshapen, each is listed and the
exit status is 1.

With --pretrained OUT is a folder that anybody can load in one line, and that can be put on a hub: model.safetensors, config.json, and
README.md, a model card with the data and the measurements of the run, or with what IN, a pretrained folder, knows.

A .pth doesn't contain the number of heads: give it by the options if the model isn't a published one. Of a classifier it doesn't contain
the names of the classes, nor how it was tuned: --labels_csv, --tuned_loss and --tuned_mode say so, and a .safetensors or a folder keeps it.
With --prefix=module. the names in a .pth begin as they do in the published files, which programs of the authors may expect.
With --float16 OUT is a .safetensors or a pretrained folder of half the size, whose values are rounded.
With --audio_frames OUT is a model for audio of that length, in steps of 10 ms; its positions are interpolated along time.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from absl import app, flags

from avmae_jax.errors import AvmaeError

from .common import cli, model_flags, runtime, unused

if TYPE_CHECKING:
    from avmae_jax.weights.io import Weights


def describe(found: Weights) -> str:
    """Describes the weights that were read in a line."""
    from avmae_jax.models.registry import kind_of

    config, shape = found.config, found.config.shape
    pairs = kind_of(config).pairs
    name = ("CAV-MAE Sync" if pairs else "CAV-MAE") if config.modality == "both" else f"{config.modality} model"
    parts = [
        f"{name}, classifier with {found.classes} classes" if found.classes else f"{name}, pretraining model",
        f"{shape.depth} blocks" + (f" ({config.joint_depth} joint)" if config.modality == "both" else ""),
        f"width {shape.width}, {shape.heads} heads",
    ]
    if not found.classes:
        parts.append(f"decoder of {shape.decoder_depth} blocks, width {shape.decoder_width}, {shape.decoder_heads} heads")
    if config.modality != "image":
        parts.append(f"audio of {config.audio_frames} frames x {config.mel_bins} mel bins")
    if pairs:
        parts.append(f"around each image of a clip of {config.spectrogram_frames}; {config.registers} registers a modality")
    if config.modality != "audio":
        parts.append(f"images of {config.image_size} x {config.image_size}")
    count = sum(tensor.size for tensor in found.params.values())
    return "; ".join([*parts, f"patches of {config.patch}", f"{count / 1e6:.3f} M parameters"])


def main(argv: list[str]) -> None:
    """Converts IN to OUT."""
    if len(argv) != 3:
        raise app.UsageError(f"give IN and OUT, two paths; there are {len(argv) - 1}")
    unused.require_used("convert", argv)
    _, source, out = argv
    runtime.start()
    import jax

    from avmae_jax.weights import folder, io
    from avmae_jax.weights.trained import completed

    jax.config.update("jax_platforms", "cpu")  # needs no accelerator, and shouldn't take its memory from a run
    sizes: dict[str, Any] = {name: flags.FLAGS[name].value for name in ("heads", "decoder_heads", "mel_bins", "audio_frames")}
    try:
        io.require_new(out)
        if flags.FLAGS.pretrained:
            folder.require_name(out)
        else:
            io.require_known_suffix(out)
        found = completed(io.read(source, **sizes), source, model_flags.about_classes())
        print(f"read {source}: {describe(found)}")
        if flags.FLAGS.pretrained:
            folder.save(found, out, source, license=flags.FLAGS.license, half=flags.FLAGS.float16)
        else:
            io.write(found, out, half=flags.FLAGS.float16, prefix=flags.FLAGS.prefix)
    except AvmaeError as error:
        sys.exit(str(error))
    print(f"wrote {out}")


def define_flags() -> None:
    """Defines the options for what a .pth doesn't contain."""
    flags.DEFINE_integer("heads", 0, "encoder heads, if IN doesn't contain them; 0: those of the published model", lower_bound=0)
    flags.DEFINE_integer("decoder_heads", 0, "decoder heads, if IN doesn't contain them; 0: those of the published model", lower_bound=0)
    model_flags.define_class_flags()
    flags.DEFINE_integer("mel_bins", 128, "mel bins of the audio, if IN doesn't contain them", lower_bound=1)
    flags.DEFINE_bool("float16", False, "round the values to float16, which halves a .safetensors or a pretrained folder")
    flags.DEFINE_string("prefix", "", "put before the names in a .pth; module. as in the published files")
    flags.DEFINE_bool("pretrained", False, "write a pretrained folder, which can be put on a hub, in place of a folder of checkpoints")
    flags.DEFINE_string("license", "", "of a pretrained folder's weights, as a hub spells it: apache-2.0, cc-by-4.0; as IN's if left out")
    flags.DEFINE_integer("audio_frames", None, "length of the audio that OUT takes, in 10 ms; as in IN if not given", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
