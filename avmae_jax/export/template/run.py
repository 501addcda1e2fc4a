"""Predicts a video, an audio file or an image: python run.py FILE. It needs numpy, PyAV, and onnxruntime or jax."""

import hashlib
import json
import sys
from pathlib import Path

import av
import numpy as np

HERE = Path(__file__).parent


def load(config, given):
    """Returns a function that applies the program for what is given; ends with a line if files don't belong together."""
    entry, weights = config["entries"][given], config["weights"]
    for name in (entry["file"], weights["file"]):
        if not (HERE / name).is_file():
            sys.exit(f"{HERE / name} is missing; export the model again")
    program = (HERE / entry["file"]).read_bytes()
    with (HERE / weights["file"]).open("rb") as file:
        begins = file.read(len(weights["begins_with"])).decode(errors="replace")
    if hashlib.sha256(program).hexdigest() != entry["sha256"]:
        sys.exit(f"{HERE / entry['file']} is of another export than config.json beside it; put both from one export here")
    if begins != weights["begins_with"] or (HERE / weights["file"]).stat().st_size != weights["bytes"]:
        sys.exit(f"{HERE / weights['file']} is of another export than config.json beside it, or incomplete; put both from one export here")
    if config["program"] == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(HERE / entry["file"]))
        return lambda arrays: dict(zip(entry["outputs"], session.run(list(entry["outputs"]), arrays)))
    import jax

    call, arrays = jax.jit(jax.export.deserialize(bytearray(program)).call), dict(np.load(HERE / weights["file"]))
    return lambda inputs: {name: np.asarray(value) for name, value in call(arrays, inputs).items()}


def decode(path, config):
    """Returns the audio as int16[N], the seconds of the longer of audio and images, and windows of it: (start, frame in the middle)."""
    rate, seconds = config["window"]["sample_rate"], config["window"]["seconds"]
    with av.open(path) as media:
        resampler = av.AudioResampler("s16p", "mono" if config["channels"] == "mean" else None, rate)
        frames = [*media.decode(audio=0), None] if media.streams.audio else []
        chunks = [piece.to_ndarray()[0] for frame in frames for piece in resampler.resample(frame)]
        audio = np.concatenate([np.zeros(0, np.int16), *chunks])
    with av.open(path) as media:
        shown = media.streams.video[0].duration if media.streams.video else None
        length = max(len(audio) / rate, float(shown * media.streams.video[0].time_base) if shown else 0)
        starts = [number * seconds for number in range(max(1, int(length / seconds)))]
        starts += [length - seconds] if length - seconds > starts[-1] + 0.04 else []
        images, last = [], []
        for frame in media.decode(video=0) if media.streams.video else ():
            while last and len(images) < len(starts) and (frame.time or 0) > starts[len(images)] + min(length, seconds) / 2:
                images.append(last[0].to_ndarray(format="rgb24"))
            last = [*last[-1:], frame]
        images += [last[0].to_ndarray(format="rgb24")] * (len(starts) - len(images)) if last else []
    return audio, length, list(zip(starts, images or [None] * len(starts)))


def main(path):
    """Prints the likeliest classes, or the vectors as JSON: means over the windows."""
    config = json.loads((HERE / "config.json").read_text())
    samples, programs, found = config["window"]["samples"], {}, {}
    audio, length, windows = decode(path, config)
    for start, image in windows:
        part = audio[round(start * config["window"]["sample_rate"]) :][:samples]
        whole = np.resize(part, samples) if length < config["window"]["seconds"] else np.pad(part, (0, samples - len(part)))
        given = {"waveform": whole[None]} if len(part) >= 400 else {}
        given |= {"image": image[None]} if image is not None else {}
        name = "both" if len(given) == 2 else "audio" if "waveform" in given else "image"
        name = name if name in config["entries"] else next((each for each in config["entries"] if each != "both" and name == "both"), "")
        if name:
            programs[name] = programs.get(name) or load(config, name)
            arrays = {each: given[each] for each in config["entries"][name]["inputs"]}
            for kind, values in programs[name](arrays).items():
                found.setdefault(kind, []).append(values[0])
    if not found:
        sys.exit(f"{path} lacks what the model needs: {' or '.join(config['entries'])}")
    means = {kind: np.mean(values, axis=0) for kind, values in found.items()}
    if config["what"] == "embed":
        print(json.dumps({kind: (mean / np.linalg.norm(mean)).tolist() for kind, mean in means.items()}))
        return
    for label in np.argsort(-means["probabilities"])[:5]:
        print(f"{means['probabilities'][label]:6.1%}  {config['label_names'][label]}")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit("usage: python run.py FILE")
