"""Predicts a video, an audio file or an image: python run.py FILE. It needs numpy, PyAV, and onnxruntime or jax."""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from media import windows  # noqa: E402 - beside this file


def main(path):
    """Prints the likeliest classes, or the vectors as JSON: means over the windows."""
    config = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    programs, found = {}, {}
    for arrays in windows(path, config["window"], config["channels"]):
        given = "both" if len(arrays) == 2 else "audio" if "waveform" in arrays else "image"
        given = given if given in config["entries"] else next((name for name in config["entries"] if given == "both"), "")
        if given:
            programs[given] = programs.get(given) or load(config, config["entries"][given], config["weights"])
            for name, values in programs[given]({name: arrays[name] for name in config["entries"][given]["inputs"]}).items():
                found.setdefault(name, []).append(values[0])
    if not found:
        sys.exit(f"{path} lacks what the model needs: {' or '.join(config['entries'])}")
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    if config["what"] == "embed":
        print(json.dumps({name: (mean / np.linalg.norm(mean)).tolist() for name, mean in means.items()}))
    else:
        for label in np.argsort(-means["probabilities"])[:5]:
            print(f"{means['probabilities'][label]:6.1%}  {config['label_names'][label]}")


def load(config, entry, weights):
    """Returns a program as a function of arrays by name; ends with a line if the files don't belong together."""
    content, first = (HERE / entry["file"]).read_bytes(), weights["begins_with"].encode()
    with (HERE / weights["file"]).open("rb") as file:
        same = file.read(len(first)) == first and (HERE / weights["file"]).stat().st_size == weights["bytes"]
    if hashlib.sha256(content).hexdigest() != entry["sha256"] or not same:
        wrong = weights["file"] if not same else entry["file"]
        sys.exit(f"{HERE / wrong} doesn't belong to config.json beside it, or is damaged; put all files of one export into one folder")
    if config["program"] == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        for name, value in config["session"].items():
            options.add_session_config_entry(name, value)
        session = onnxruntime.InferenceSession(HERE / entry["file"], options)
        return lambda arrays: dict(zip(entry["outputs"], session.run(list(entry["outputs"]), arrays)))
    import jax

    file = np.memmap(HERE / weights["file"], np.float32, "r")
    places = [(name, begin // 4, (*shape,)) for name, begin, shape in weights["arrays"]]
    values = jax.device_put({name: file[begin : begin + math.prod(shape)].reshape(shape) for name, begin, shape in places})
    program = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda arrays: {name: np.asarray(found) for name, found in program(values, arrays).items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python run.py FILE")
    try:
        main(sys.argv[1])
    except (OSError, ValueError, EOFError) as error:
        sys.exit(f"{sys.argv[1]} can't be predicted: {error}")
