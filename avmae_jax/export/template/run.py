"""Predicts a video, an audio file or an image: python run.py FILE. It needs numpy, PyAV, and onnxruntime or jax."""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from media import windows  # noqa: E402 - beside this file
from programs import Programs  # noqa: E402


def main(path):
    """Prints the likeliest classes, or the vectors as JSON: means over the windows."""
    programs, found = Programs(HERE), {}
    config = programs.config
    for arrays in windows(path, config["window"], config["channels"]):
        has = "both" if len(arrays) == 2 else "audio" if "waveform" in arrays else "image"
        given = next((entry for entry in config["entries"] if has in (entry, "both")), "")  # "both" comes first, where it is an entry
        if given:
            for name, values in programs.apply(given, arrays).items():
                found.setdefault(name, []).append(values[0])
    if not found:
        sys.exit(f"{path} lacks what the model needs: {' or '.join(config['entries'])}")
    programs.finish()
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    if config["what"] == "embed":
        print(json.dumps({name: (mean / np.linalg.norm(mean)).tolist() for name, mean in means.items()}))
    else:
        for label in np.argsort(-means["probabilities"])[:5]:
            print(f"{means['probabilities'][label]:6.1%}  {config['label_names'][label]}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python run.py FILE")
    try:
        main(sys.argv[1])
    except (OSError, ValueError, EOFError) as error:
        sys.exit(f"{sys.argv[1]} can't be predicted: {error}")
