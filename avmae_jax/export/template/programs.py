"""Opens the programs beside it with onnxruntime or jax."""

import hashlib
import math

import numpy as np


def load(folder, config, given):
    """Returns a program as a function of arrays by name, of which it takes what it needs.

    Args:
      folder: of the export.
      config: content of its config.json.
      given: the entry, "both", "audio" or "image".

    Raises:
      SystemExit: with a line, if the files don't belong together.
    """
    entry, weights = config["entries"][given], config["weights"]
    content, first = (folder / entry["file"]).read_bytes(), weights["begins_with"].encode()
    with (folder / weights["file"]).open("rb") as file:
        same = file.read(len(first)) == first and (folder / weights["file"]).stat().st_size == weights["bytes"]
    if hashlib.sha256(content).hexdigest() != entry["sha256"] or not same:
        wrong = weights["file"] if not same else entry["file"]
        raise SystemExit(
            f"{folder / wrong} doesn't belong to config.json beside it, or is damaged; put all files of one export into one folder"
        )
    apply = _onnx(folder, config, entry) if config["program"] == "onnx" else _stablehlo(folder, config, content)
    return lambda arrays: apply({name: arrays[name] for name in entry["inputs"]})


def _onnx(folder, config, entry):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for name, value in config["session"].items():
        options.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(folder / entry["file"], options)
    return lambda arrays: dict(zip(entry["outputs"], session.run(list(entry["outputs"]), arrays)))


def _stablehlo(folder, config, content):
    import jax

    file = np.memmap(folder / config["weights"]["file"], np.float32, "r")
    places = [(name, begin // 4, (*shape,)) for name, begin, shape in config["weights"]["arrays"]]
    values = jax.device_put({name: file[begin : begin + math.prod(shape)].reshape(shape) for name, begin, shape in places})
    program = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda arrays: {name: np.asarray(found) for name, found in program(values, arrays).items()}
