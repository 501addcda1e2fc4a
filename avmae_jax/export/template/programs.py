"""Opens the programs beside it with onnxruntime or jax; whatever is wrong with the files ends in one line."""

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

FORMAT = 1  # export_format of the folders that this program knows
LONGER = 0.015  # seconds by which the audio of a spectrogram is longer than its frames, which overlap
REMEDY = "put all files of one export into one folder, or export the model again"


class Programs:
    """Opens each program of a folder when it is first applied, while a thread compares the file of weights with its checksum."""

    def __init__(self, folder):
        """Reads config.json; exits with a line if it is none of such a folder."""
        self.folder, self.config, self._opened = folder, read(folder / "config.json"), {}
        weights = self.config["weights"]
        self._whole = ThreadPoolExecutor(1).submit(require_whole, folder / weights["file"], weights["sha256"])

    def apply(self, given, arrays):
        """Returns the outputs of a program by name.

        Args:
          given: the entry, "both", "audio" or "image".
          arrays: the inputs by name, of which the program takes what it needs.
        """
        entry = self.config["entries"][given]
        place = self.folder / entry["file"]
        try:
            if given not in self._opened:
                require_whole(place, entry["sha256"])
                self._opened[given] = {"onnx": open_onnx, "stablehlo": open_stablehlo}[self.config["program"]](place, self.config, entry)
            return self._opened[given]({name: arrays[name] for name in entry["inputs"]})
        except ImportError as error:
            raise SystemExit(f"{place} needs {error.name}; pip install {error.name}") from None
        except Exception as error:  # those of onnxruntime and jax have no common parent
            self.finish()  # damaged weights are the likelier reason
            raise SystemExit(f"{place} can't be applied ({shortened(error)}); {REMEDY}") from None

    def finish(self):
        """Waits for the checksum; exits with a line if the weights are not those of this folder."""
        self._whole.result()


def read(place):
    """Returns the content of config.json, after comparing what it says in several places."""
    try:
        config = json.loads(place.read_text(encoding="utf-8"))
        version = config.get("export_format", "missing")
        said = f"export_format is {version}, and must be {FORMAT}" if version != FORMAT else next(contradictions(config), "")
    except Exception as error:  # any value may lack or be of another type
        said = f"it lacks something or can't be read ({shortened(error)})"
    if said:
        raise SystemExit(f"{place}: {said}; {REMEDY}")
    return config


def contradictions(config):
    """Yields what can't be in a config.json."""
    for name, known in (("program", ("onnx", "stablehlo")), ("what", ("classify", "embed")), ("channels", ("first", "mean"))):
        if config[name] not in known:
            yield f"{name} is {config[name]!r}, and must be {' or '.join(known)}"
    samples, seconds, rate = (config["window"][name] for name in ("samples", "seconds", "sample_rate"))
    if not (min(seconds, rate) > 0 and samples == round((seconds + LONGER) * rate)):
        yield f"window.samples is {samples}, which {seconds} seconds at a sample_rate of {rate} don't have"
    if not config["entries"] or {*config["entries"]} - {"both", "audio", "image"}:
        yield f"entries is for {', '.join(config['entries']) or 'nothing'}, and must be for both, audio or image"
    for given, entry in config["entries"].items():
        if given != "image" and (length := entry["inputs"]["waveform"]["shape"][1]) != samples:
            yield f"window.samples is {samples}, and the program for {given} takes {length}"
        names, count = config["label_names"], entry["outputs"]["probabilities"]["shape"][1] if config["what"] == "classify" else 0
        if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
            yield f"label_names must be a list of {count} names, as many as the program for {given} has probabilities"
    files = {"weights": config["weights"], **config["entries"]}
    yield from (f"{name} has no {key}" for name, file in files.items() for key in ("file", "sha256") if not isinstance(file[key], str))


def require_whole(place, sha256):
    """Exits with a line if a file doesn't have a checksum."""
    digest = hashlib.sha256()
    try:
        with place.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise SystemExit(f"{place} can't be read ({error.strerror}); {REMEDY}") from None
    if digest.hexdigest() != sha256:
        raise SystemExit(f"{place} doesn't belong to config.json beside it, or is damaged; {REMEDY}")


def shortened(error):
    """Returns an error's type and first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def open_onnx(place, config, entry):
    """Opens a program in ONNX."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for name, value in config["session"].items():
        options.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(place, options)
    return lambda arrays: dict(zip(entry["outputs"], session.run(list(entry["outputs"]), arrays)))


def open_stablehlo(place, config, _):
    """Opens a program in StableHLO, and gives it the weights."""
    import jax

    file = np.memmap(place.with_name(config["weights"]["file"]), np.float32, "r")
    places = [(name, begin // 4, (*shape,)) for name, begin, shape in config["weights"]["arrays"]]
    values = jax.device_put({name: file[begin : begin + math.prod(shape)].reshape(shape) for name, begin, shape in places})
    program = jax.jit(jax.export.deserialize(bytearray(place.read_bytes())).call)
    return lambda arrays: {name: np.asarray(found) for name, found in program(values, arrays).items()}
