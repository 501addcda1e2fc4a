"""Reads a run's folder with care: a run may be unfinished, killed while it wrote, or older than this code."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from avmae_jax.checkpoint.manager import newest_meta, steps_of
from avmae_jax.errors import DatasetError
from avmae_jax.evals.baselines.baseline import read_baselines
from avmae_jax.evals.listening import LISTENING as NOTE
from avmae_jax.evals.sync_check import RESULT
from avmae_jax.inference.offset_files import FOLDER
from avmae_jax.models.registry import KINDS
from avmae_jax.plots import curves
from avmae_jax.train.logbook import METRICS_FILE
from avmae_jax.train.snapshots import MEANS

# Folders of a run that launch.evaluate, launch.retrieve and launch.report write into.
EVALUATION, RETRIEVAL, LISTENING = "evaluation", "retrieval", "listening"


class RunFolder:
    """Reads the files of a run's folder; a file that is missing or can't be read gives {} or nothing.

    Raises:
      ValueError: if the folder holds no run.
    """

    def __init__(self, folder: Path):
        self.folder, self.damaged = folder, list[str]()
        note = folder / "config.json"
        if not note.is_file():
            raise ValueError(f"{folder} is no run: it has no config.json; give the train.workdir of launch.pretrain or launch.finetune")
        self.config = self._read(note)
        if not all(isinstance(self.config.get(group), dict) for group in ("model", "data", "train")):
            reason = "; ".join(self.damaged) or f"{note} has no model, data or train"
            raise ValueError(f"{reason}: it is no config of a run, which writes this file when it starts")
        self.summary = self._read(folder / "summary.json")
        means = (folder / name for name in MEANS if steps_of(folder / name))
        self.recommended = next(means, folder)  # the weights that a classifier's user should take
        self.evaluation = self._read(self.recommended / EVALUATION / "evaluation.json")
        self.retrieval = self._read(folder / RETRIEVAL / "retrieval.json")
        self.sync_check = self._read(folder / FOLDER / RESULT)
        self.listening = self._read(folder / LISTENING / NOTE)
        self.baselines = self._baselines()
        self.rows, self.damaged_lines = self._metrics(folder / METRICS_FILE)
        self.meta = newest_meta(folder / "checkpoints") or {}
        weights = folder / "checkpoints" if self.recommended == folder else self.recommended
        self.step = next((step for step, _ in steps_of(weights)), None)  # of the recommended weights
        self.is_classifier = bool(self.meta.get("label_names")) or any("map" in row for row in self.rows)

    def command(self, program: str, *options: str) -> str:
        """Returns a command line of a program of launch/ on the recommended weights of this run."""
        return shlex.join(["python", "-m", f"launch.{program}", str(self.recommended), *options])

    @property
    def is_of_pairs(self) -> bool:
        """Says whether the run's model compares images with the audio around them."""
        kind = KINDS.get(str(self.config["model"].get("kind")))
        return kind is not None and kind.pairs

    @property
    def holds_out_none(self) -> bool:
        """Says whether the run has ended without held-out clips, on which a measurement would be refused."""
        return "steps" in self.summary and self.summary.get("held_out") == {}

    def newest_reconstructions(self) -> tuple[int, Path] | None:
        """Finds the last step of which reconstructions were drawn, and their file."""
        found = ((re.fullmatch(r"reconstructions_(\d+)\.png", path.name), path) for path in (self.folder / "pictures").glob("*.png"))
        return max(((int(match[1]), path) for match, path in found if match), default=None)

    def _read(self, path: Path) -> dict[str, Any]:
        if not self._is_there(path):
            return {}
        try:
            value = json.loads(path.read_text(encoding="utf-8"), parse_int=curves.whole_number)
        except (ValueError, OSError, RecursionError) as error:
            self.damaged.append(f"{path} can't be read: {error}")
            return {}
        if not isinstance(value, dict):
            self.damaged.append(f"{path} holds no JSON object")
            return {}
        return value

    def _baselines(self) -> dict[str, Any]:
        """Reads what launch.baseline measured on the data that was evaluated, or on that of the run."""
        data = self.evaluation.get("data") or group(self.config, "data").get("path")
        try:
            return read_baselines(data if isinstance(data, str) else "", self.folder) or {}
        except (DatasetError, OSError) as error:
            self.damaged.append(str(error))
            return {}

    def _is_there(self, path: Path) -> bool:
        """Returns whether a file can be opened; reading a pipe would wait for ever."""
        if path.exists() and not path.is_file():
            self.damaged.append(f"{path} is no regular file")
        return path.is_file()

    def _metrics(self, path: Path) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
        try:
            return curves.parse_metrics(path) if self._is_there(path) else ([], [])
        except OSError as error:
            self.damaged.append(f"{path} can't be read: {error}")
            return [], []


def group(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns an object inside a JSON object; {} where there is none."""
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def objects(values: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Returns the objects of a list inside a JSON object."""
    return [row for row in as_list(values.get(name)) if isinstance(row, dict)]


def as_list(value: Any) -> Sequence[Any]:
    """Returns a list unchanged, and [] for anything else."""
    return value if isinstance(value, list) else []


def is_real(value: Any) -> TypeGuard[float]:
    """Checks whether a value of a JSON file is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
