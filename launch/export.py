"""Exports a model as a program that runs without this project: ONNX, or StableHLO for CPU, GPU and TPU.

    python -m launch.export RUN OUT [--format=onnx|stablehlo] [--what=classify|embed] [--quantize=int8|float16]

RUN is a run's folder, its best/, averaged/ or ema/, a file of weights, a pretrained folder, or the name of a model in the box. OUT becomes
a folder. Its programs take int16 audio and uint8 frames of any size, any number of them at once, and compute everything from there on:
log-mel, resizing, scaling, the model, calibrated probabilities. There is one for audio with images, one for audio and one for images, as
far as the model can do without the other. Beside them are config.json, with the names of the classes, and run.py:

    python OUT/run.py clip.mp4

which needs numpy, PyAV and onnxruntime, or jax in place of the latter, and nothing else.

--what is classify for a classifier, and embed for a pretraining model: vectors of audio, image and both. A classifier has both.
--quantize is for ONNX: int8 computes with whole numbers of a byte, a quarter of the size; float16 stores weights in half the size and
computes in float32.

Needs `pip install -e ".[export]"`.
"""

from __future__ import annotations

import sys

from absl import app, flags

from .common import cli, model_flags, runtime, unused


def main(argv: list[str]) -> None:
    """Exports RUN to OUT."""
    if len(argv) != 3:
        raise app.UsageError(f"give RUN and OUT, two paths; there are {len(argv) - 1}")
    unused.require_used("export", argv)
    _, source, out = argv
    runtime.start()
    import jax

    from avmae_jax.export import folder
    from avmae_jax.weights.tensor_files import require_new
    from avmae_jax.weights.trained import load_trained

    jax.config.update("jax_platforms", "cpu")  # needs no accelerator, and shouldn't take its memory from a run
    args = flags.FLAGS
    with model_flags.one_line_errors():
        require_new(out)
        sizes = {"heads": args.heads, "decoder_heads": args.decoder_heads}
        trained = load_trained(source, about=model_flags.about_classes(), **sizes)
        what = args.what or ("classify" if trained.classes else "embed")
        try:
            found = folder.export(trained, out, what, form=args.format, quantize=args.quantize)
        except ImportError as error:
            sys.exit(f'{error.name} is not installed, which ONNX needs; pip install -e ".[export]"')
    print(f"wrote {out}: {sum(folder.sizes_of(out).values()) / 1e6:.1f} MB")
    for given, difference in found.items():
        print(f"  {given}.{args.format} differs from the model by {difference:.1e} of the largest value, for noise")
    print(f"try it: python {out}/run.py FILE")


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_class_flags()
    flags.DEFINE_integer("heads", 0, "encoder heads of a .pth; 0: those of the published model of its width", lower_bound=0)
    flags.DEFINE_integer("decoder_heads", 0, "decoder heads of a .pth; 0: those of the published model of its width", lower_bound=0)
    flags.DEFINE_enum("format", "onnx", ["onnx", "stablehlo"], "onnx for onnxruntime; stablehlo for jax on cpu, cuda and tpu")
    flags.DEFINE_enum("what", None, ["classify", "embed"], "probabilities or vectors; classify if left out and the model has classes")
    flags.DEFINE_enum("quantize", None, ["int8", "float16"], "of the weights in ONNX; float32 if left out")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
