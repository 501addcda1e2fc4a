"""Hides parts of clips and lets a pretraining model fill them in.

    python -m launch.inpaint RUN FILE [FILE ...] --out DIR

RUN is a model in any format that launch.convert reads. Each FILE is a media file, of which the beginning is used, as long as the model's
input; --clips ID,ID uses clips of a prepared data set instead (--data and --split, or those of RUN). For each clip four files are written:

  NAME.png                 image and spectrogram: original, masked, reconstructed
  NAME_reconstructed.wav   the reconstructed audio
  NAME_original_mel.wav    the audio of the unmasked spectrogram, which shows the loss of Griffin-Lim without that of the model
  NAME_masked_mel.wav      the audio of what the model was given: hidden patches are silent

A spectrogram has no phases, so all three waveforms are approximations by Griffin-Lim. One factor scales them, and the louder one of
original and reconstruction peaks at 0.9 of full scale.

A model that was trained with loss.norm_pix, like the original, predicts patches without their mean and contrast. These are taken from the
hidden patches, so the output contains more than the model knows. For proper inpainting, pretrain with --config.loss.norm_pix=False.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from absl import app, flags, logging

from avmae_jax.errors import ClipError, CorruptRecordError
from avmae_jax.files import printable

from .common import cli, kept_programs, model_flags, runtime, unused


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags(classes=False)
    model_flags.define_data_flags()
    flags.DEFINE_string("out", "", "folder for the results; required")
    flags.DEFINE_bool("overwrite", False, "replace existing files")
    flags.DEFINE_list("clips", [], "ids of clips of a data set, in place of files")
    flags.DEFINE_float("audio_mask_ratio", None, "share of audio patches that is hidden, in [0, 1); as in training if not given")
    flags.DEFINE_float("image_mask_ratio", None, "share of image patches that is hidden, in [0, 1); as in training if not given")
    flags.DEFINE_enum("mask_mode", None, ["unstructured", "time", "freq", "tf"], "hide audio patches, times, bands, or times and bands")
    flags.DEFINE_integer("seed", 0, "of the masks; a seed hides the same patches of every clip", lower_bound=0)


def masking() -> dict[str, object]:
    """Returns the fields of ModelConfig that the flags change."""
    args = flags.FLAGS
    given = {"audio_mask_ratio": args.audio_mask_ratio, "image_mask_ratio": args.image_mask_ratio, "audio_mask_mode": args.mask_mode}
    return {name: value for name, value in given.items() if value is not None}


def run(model_path: str, files: list[str], ids: list[str], out: Path) -> int:
    """Fills in all clips and returns the exit status; main turns what this raises into one line."""
    from avmae_jax.data.store.reader import clips_by_id
    from avmae_jax.inference.inpaint import LOUDEST, Inpainter
    from avmae_jax.inference.windows import decode_beginning
    from avmae_jax.plots.inpainting import inpaint_into, new_places

    args = flags.FLAGS
    places = new_places(out, [Path(file).stem for file in files] or ids, overwrite=args.overwrite)
    inpainter = Inpainter(model_flags.load(model_path), masking())
    if inpainter.config.loss.norm_pix:
        logging.warning(
            "this model was trained with loss.norm_pix: each hidden patch gets its mean and contrast from the original, which the model "
            "knows nothing of; for inpainting proper, pretrain with --config.loss.norm_pix=False"
        )
    if ids:
        readers = clips_by_id(model_flags.open_clips(model_path, inpainter.needs), ids, args.split)
    else:
        readers = [partial(decode_beginning, file, inpainter.config, inpainter.needs) for file in files]
    failed = []
    for name, reader, place in zip(files or ids, readers, places, strict=True):
        try:
            written = inpaint_into(place, inpainter, reader(), args.seed)
        except (ClipError, CorruptRecordError, ValueError) as error:
            failed.append(f"{name}: {error}" if name not in str(error) else str(error))
        else:
            print(printable("\n".join(written)))
    if inpainter.needs != "image" and len(failed) < len(places):
        print(
            f"the audio is approximate, as Griffin-Lim estimates the phases; the files of a clip are scaled alike, to a peak of {LOUDEST}"
        )
    for reason in failed:
        print(printable(f"can't be used: {reason}"), file=sys.stderr)
    return cli.status_of(len(failed), len(places))


def main(argv: list[str]) -> None:
    """Fills in the clips that are named."""
    args = flags.FLAGS
    if len(argv) < 2 or bool(argv[2:]) == bool(args.clips):
        raise app.UsageError("give a model, and then either media files or --clips with ids of a data set")
    if not args.out:
        raise app.UsageError("give --out, the folder to write into")
    unused.require_used("inpaint", argv)
    runtime.start()
    kept_programs.cache_programs()
    with model_flags.one_line_errors():
        status = run(argv[1], argv[2:], args.clips, Path(args.out).expanduser())
    if status:
        sys.exit(status)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
