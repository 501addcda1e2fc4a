"""Runs the PyTorch reference and the JAX model side by side: `python -m parity.check CHECKPOINT [--media clip.mp4 ...]`.

CHECKPOINT is a .pth of the original, pretrained or fine-tuned, or anything else that avmae_jax.weights reads. The reference loads its
tensors by their official names, the JAX model through the converter. Both models run on random input, and on media files if given. Every
intermediate, loss, feature and logit is compared, and with --gradients every gradient too.

Exit status: 0 if every quantity is within its tolerance, 1 if one is not, 2 if a file can't be used.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from avmae_jax.config import Config, LossConfig, ModelConfig
from avmae_jax.data.decode.form import ClipForm
from avmae_jax.data.decode.one_clip import decode_clip
from avmae_jax.data.example import example
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import ClipError
from avmae_jax.models.modes import MODES
from avmae_jax.models.registry import kind_of
from avmae_jax.weights import io
from avmae_jax.weights.official import to_official
from avmae_jax.weights.tensor_files import read_tensors
from parity.rows import Row, print_table

_CUDNNS = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")  # of the extra cuda12, and of cuda13 and of PyTorch's wheels


def media_inputs(config: ModelConfig, paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the beginning of each file to model inputs: float32[B, T, M], float32[B, H, W, 3]; raises ClipError."""
    samples = num_samples(config.audio_frames)
    form = ClipForm(seconds=config.audio_frames / 100, frame_size=config.image_size)
    clips = [decode_clip(path, clip_id=str(path), form=form) for path in paths]
    examples = [example(clip, clip.middle, samples=samples, image_size=config.image_size) for clip in clips]
    batch = {name: np.stack([one[name] for one in examples]) for name in ("waveform", "samples", "image")}
    inputs = model_inputs({name: jnp.asarray(array) for name, array in batch.items()}, Config(model=config))
    return np.asarray(inputs["audio"]), np.asarray(inputs["image"])


def read(path: Path, **sizes: int) -> tuple[io.Weights, dict[str, np.ndarray]]:
    """Reads a checkpoint for JAX, and its official state dict for the reference: a file's own tensors, not those of our converter."""
    found = io.read(path, **sizes)
    state = to_official({name: np.asarray(tensor) for name, tensor in found.params.items()})
    if path.is_file():
        state |= read_tensors(path)
    return found._replace(config=dataclasses.replace(found.config, compute_dtype="float32", remat=False)), state


def check(
    found: io.Weights, state: dict[str, np.ndarray], media: Sequence[Path], *, batch: int, seed: int, norm_pix: bool, gradients: bool
) -> Iterator[Row]:
    """Compares both models on random input and on media files, one row for each quantity.

    Args:
      found: the checkpoint for JAX.
      state: for the reference.
      media: files with audio and video.
      batch: number of random examples.
      seed: of inputs and masks.
      norm_pix: as in LossConfig; a pretraining checkpoint doesn't record it.
      gradients: compare them too.
    """
    from parity.side_by_side import Classification, Pretraining, masking_noise, random_inputs

    inputs = {"random": random_inputs(found.config, batch, seed)}
    if media:
        fbank, image = media_inputs(found.config, media)
        inputs["media"] = type(inputs["random"])(fbank, image, *masking_noise(found.config, len(media), seed))
    for kind, given in inputs.items():
        if kind_of(found.config).task == "classification":
            pair = Classification(found.config, found.classes, given, state=state)
            rows = [*pair.logit_rows(), *(row for mode in MODES if gradients for row in pair.gradient_rows(mode))]
        else:
            pair = Pretraining(found.config, LossConfig(norm_pix=norm_pix), given, state=state)
            rows = [*pair.output_rows(), *(pair.gradient_rows() if gradients else ())]
        yield from (row._replace(name=f"{kind}: {row.name}") for row in rows)


def overwritten() -> str:
    """Names the two distributions of cuDNN, if both are installed: they have the same files, of which the last one installed remains."""
    found = {}
    for name in _CUDNNS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if len(found) < len(_CUDNNS):
        return ""
    both = " and ".join(f"{name} {version}" for name, version in found.items())
    return (
        f"{both} are both installed and overwrite each other's files, so that JAX or PyTorch may run with the wrong cuDNN on a GPU; "
        'in a new environment pip install -e ".[dev,parity,cuda13]", whose JAX and PyTorch share one\n'
    )


def main() -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help=".pth, .safetensors, or a run's folder")
    parser.add_argument("--media", type=Path, nargs="+", default=[], help="videos to run both models on")
    parser.add_argument("--batch", type=int, default=2, help="number of random examples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heads", type=int, default=0, help="of the encoder, where its width isn't a published one")
    parser.add_argument("--decoder_heads", type=int, default=0, help="of the decoder, where its width isn't a published one")
    parser.add_argument("--mel_bins", type=int, default=128)
    parser.add_argument("--no_norm_pix", action="store_true", help="the model was trained to predict pixels as they are")
    parser.add_argument("--gradients", action="store_true", help="compare gradients too")
    args = parser.parse_args()
    sys.stderr.write(overwritten())
    try:
        found, state = read(args.checkpoint, heads=args.heads, decoder_heads=args.decoder_heads, mel_bins=args.mel_bins)
        options = {"batch": args.batch, "seed": args.seed, "norm_pix": not args.no_norm_pix, "gradients": args.gradients}
        rows = list(check(found, state, args.media, **options))
    except ModuleNotFoundError as error:
        sys.stderr.write(f'{error.name} is missing: pip install -e ".[parity]"\n')
        return 2
    except (ValueError, OSError, ClipError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    kind = f"classifier of {found.classes} classes" if found.classes else "pretraining model"
    print_table(rows, [f"{args.checkpoint}: {kind}, {found.config.shape}, joint_depth={found.config.joint_depth}"])
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
