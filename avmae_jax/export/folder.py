"""Writes exported folders: programs, their weights, config.json, which says what belongs together, and run.py, which applies them.

both.onnx, audio.onnx, image.onnx   a program for each of what a window may have; or both.stablehlo, ...
weights.bin                         what they share
config.json                         sizes, names of classes, checksums
run.py, media.py, programs.py       predict a file from the command line, without this project
"""

import hashlib
import importlib.metadata
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.fbank import SHIFT, num_samples
from avmae_jax.export import check
from avmae_jax.export.program import Entry, What, entries_of
from avmae_jax.files import write_json
from avmae_jax.weights.calibration import of_mode
from avmae_jax.weights.tensor_files import require_new, write_new
from avmae_jax.weights.trained import Trained

Format = Literal["onnx", "stablehlo"]
Quantize = Literal["int8", "float16"]

FORMAT = 1  # of config.json
CONFIG = "config.json"
# onnxruntime would copy all weights into another order when it loads them: for the base model .8 s, and no call is faster for it. Whole
# numbers are.
_SESSION = {"session.disable_prepacking": "1"}
_VERSIONS = {"onnx": ("avmae-jax", "jax", "onnx"), "stablehlo": ("avmae-jax", "jax", "jaxlib")}


def export(trained: Trained, path: str | Path, what: What, *, form: Format = "onnx", quantize: Quantize | None = None) -> dict[str, float]:
    """Writes a model's programs to a new folder.

    Args:
      trained: of any kind that has classes or vectors; computed in float32.
      path: of the new folder.
      what: "classify": probabilities and logits; "embed": the vectors of audio, image and both.
      form: of the programs.
      quantize: of the weights in ONNX: "int8" computes with them, "float16" stores them in half the size.

    Returns:
      By entry, how far the program's results for noise are from the model's, relative to the largest one.

    Raises:
      ExportError: if the kind of model has no such outputs, uses an operation that the format lacks, or the program computes something
        else; nothing is left there then.
      WeightsError: if the path exists or can't be written; nothing is left there then.
    """
    path = Path(path).expanduser()
    require_new(path)
    entries = entries_of(trained, what)
    content, found = _about(trained, what, form, quantize), dict[str, float]()

    def write_all(folder: Path) -> None:
        folder.mkdir()
        if form == "onnx":
            from avmae_jax.export import onnx_files

            content["weights"] = onnx_files.write(trained, entries, folder, quantize)
        else:
            from avmae_jax.export import stablehlo_files

            content["weights"] = stablehlo_files.write(trained, entries, folder)
        with (folder / content["weights"]["file"]).open("rb") as file:
            content["weights"]["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        content["entries"] = {given: _about_entry(trained, entry, folder / f"{given}.{form}") for given, entry in entries.items()}
        found.update(check.differences(trained, entries, folder, exact=quantize is None))
        write_json(folder / CONFIG, content)
        for file in (Path(__file__).parent / "template").glob("*.py"):
            shutil.copyfile(file, folder / file.name)

    write_new(path, write_all)
    return found


def _about(trained: Trained, what: What, form: Format, quantize: Quantize | None) -> dict[str, Any]:
    """Returns what config.json says of the model."""
    config = trained.config
    samples = num_samples(config.model.audio_frames)
    return {
        "library_name": "avmae-jax",
        "export_format": FORMAT,
        "program": form,
        "what": what,
        "quantize": quantize or "none",
        "session": dict(_SESSION) if form == "onnx" and quantize != "int8" else {},
        "kind": trained.kind,
        "label_names": list(trained.label_names) if what == "classify" else [],
        "window": {"samples": samples, "seconds": config.model.audio_frames * SHIFT / SAMPLE_RATE, "sample_rate": SAMPLE_RATE},
        "image_size": config.model.image_size,
        "channels": config.data.audio_channels,
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS[form]},
    }


def _about_entry(trained: Trained, entry: Entry, file: Path) -> dict[str, Any]:
    """Returns what config.json says of one program."""
    described: dict[str, Any] = {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "inputs": {name: {"dtype": dtype.name, "shape": list(shape)} for name, (dtype, shape) in entry.inputs.items()},
        "outputs": {name: {"dtype": "float32", "shape": ["batch", size]} for name, size in entry.outputs.items()},
    }
    if entry.mode:
        calibration = of_mode(trained.calibration, entry.mode)
        described |= {"mode": entry.mode, "temperature": calibration.temperature, "thresholds": list(calibration.thresholds)}
    return described


def sizes_of(folder: str | Path) -> Mapping[str, int]:
    """Returns the bytes of each file of a folder."""
    return {file.name: file.stat().st_size for file in sorted(Path(folder).expanduser().iterdir())}
