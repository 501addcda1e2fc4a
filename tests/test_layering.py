"""Holds the order of the folders: each imports only folders below it, whether at the top of a file, in a function or by a string."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import ROOT

GROUND = ("config_files", "config_history", "config", "settings", "files", "xla_flags", "errors", "trees", "ctrl_c")
LIBRARY = ("demo", "report", "planning", "train", "evals", "plots", "export", "inference", "weights", "checkpoint", "models", "data")
ORDER = ("cli", "launch", "parity", "avmae_jax", *LIBRARY, "configs", *GROUND)  # `avmae_jax` itself is the list of public names
SELF_CONTAINED = ("models", "data", "configs")  # these import nothing of ours but GROUND
ONLY_HERE = {  # a library -> where it may be imported
    "torch": ("avmae_jax.weights.tensor_files", "parity"),
    "onnx": ("avmae_jax.export",),
    "onnxruntime": ("avmae_jax.export",),
    "orbax": ("avmae_jax.checkpoint",),
    "matplotlib": ("avmae_jax.plots",),
    "gradio": ("avmae_jax.demo",),
    "sklearn": ("avmae_jax.evals.baselines.classifiers", "parity"),
}
SHARED_PROGRAMS = ("launch.common", "launch.benchmarks")


class Import(NamedTuple):
    """Holds one import: which module imports which other, in which file and line."""

    importer: str
    imported: str
    place: str


def module_of(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(root: Path) -> list[Import]:
    """Lists every import of the packages below `root`; for a name that is no module, of the module that has it."""
    files = {
        module_of(file, root): file for package in ("avmae_jax", "configs", "launch", "parity") for file in root.glob(f"{package}/**/*.py")
    }
    found = []
    for module, file in files.items():
        parents = module.split(".") if file.stem == "__init__" else module.split(".")[:-1]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name, attribute in names_in(node, parents):
                whole = f"{name}.{attribute}"
                place = f"{file.relative_to(root)}:{getattr(node, 'lineno', 0)}"
                found.append(Import(module, whole if attribute and whole in files else name, place))
    return found


def names_in(node: ast.AST, parents: list[str]) -> Iterator[tuple[str, str]]:
    """Yields (module, name taken from it or "") for each name that a statement or a call imports; `parents` resolve relative imports."""
    match node:
        case ast.Import(names=names):
            yield from ((alias.name, "") for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            base = [*parents[: len(parents) - level + 1], *([module] if module else [])] if level else [module or ""]
            yield from ((".".join(base), alias.name) for alias in names)
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]
        ):
            yield name, ""


def room_of(module: str) -> str:
    """Returns the entry of ORDER that a module of ours is in; "" for other libraries."""
    top, *rest = module.split(".")
    if top != "avmae_jax":
        return top if top in ORDER else ""
    return rest[0] if rest else top


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{place}.") for place in places)


def rule_against(importer: str, imported: str) -> str:
    """Returns the rule that an import breaks; "" if it may stay."""
    library = imported.split(".")[0]
    if library in ONLY_HERE and not within(importer, ONLY_HERE[library]):
        return f"only {' and '.join(ONLY_HERE[library])} may import {library}"
    room, other = room_of(importer), room_of(imported)
    if not other or (room == other != "launch"):
        return ""
    if room not in ORDER or other not in ORDER:
        return f"{(room if room not in ORDER else other)} has no place in ORDER; give it one in this test"
    if room == other:
        program = importer != imported and not within(imported, SHARED_PROGRAMS) and imported != "launch"
        return "programs don't import each other; what two of them need is in launch.common or the library" if program else ""
    if room in SELF_CONTAINED and other not in GROUND:
        return f"{room} imports nothing of ours but {', '.join(GROUND)}"
    if ORDER.index(other) < ORDER.index(room):
        return f"{room} is below {other}"
    return ""


def circles(imports: list[Import]) -> list[str]:
    """Files or folders of one folder that import each other in a circle, each circle once, from its first name on."""
    edges: dict[str, set[str]] = {}
    for importer, imported, _ in imports:
        a, b = importer.split("."), imported.split(".")
        shared = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        if shared:  # the two differ below a common folder
            edges.setdefault(".".join(a[: shared + 1]), set()).add(".".join(b[: shared + 1]))

    def walk(start: str, path: list[str]) -> Iterator[str]:
        for following in sorted(edges.get(path[-1], ())):
            if following == start:
                yield " -> ".join([*path, start])
            elif following > start and following not in path:
                yield from walk(start, [*path, following])

    return [circle for start in sorted(edges) for circle in walk(start, [start])]


def violations(root: Path) -> dict[str, str]:
    """Returns {"importer -> imported" or a circle: where it is and which rule it breaks}."""
    imports = imports_of(root)
    found = {
        f"{importer} -> {imported}": f"{place}: {importer} imports {imported}, but {rule}"
        for importer, imported, place in imports
        if (rule := rule_against(importer, imported))
    }
    for circle in circles([entry for entry in imports if not rule_against(*entry[:2])]):
        found[circle] = f"{circle} is a circle; move what they share into a module below them"
    return found


def test_every_folder_imports_only_what_is_below_it() -> None:
    found = violations(ROOT)
    assert not found, "\n" + "\n".join(found.values())


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("file", "code", "imported", "rule"),
    [
        ("avmae_jax/data/clip.py", "from avmae_jax.models import mae", "avmae_jax.models.mae", "clip.py:1: .*nothing of ours but"),
        ("avmae_jax/models/mae.py", "def f():\n    from ..train.loop import x", "avmae_jax.train.loop", "mae.py:2: .*nothing of ours"),
        ("avmae_jax/weights/io.py", "from ..evals import x", "avmae_jax.evals", "weights is below evals"),
        ("avmae_jax/weights/io.py", "importlib.import_module('torch')", "torch", "only .*tensor_files and parity"),
        ("avmae_jax/train/loop.py", "import orbax.checkpoint as ocp", "orbax.checkpoint", "only avmae_jax.checkpoint"),
        ("avmae_jax/report/html.py", "from matplotlib import cm", "matplotlib", "only avmae_jax.plots"),
        ("launch/demo.py", "import gradio", "gradio", "only avmae_jax.demo"),
        ("avmae_jax/evals/scores.py", "from sklearn.svm import SVC", "sklearn.svm", "only avmae_jax.evals.baselines.classifiers"),
        ("avmae_jax/config/run.py", "import avmae_jax", "avmae_jax", "config is below avmae_jax"),
        ("avmae_jax/utils/x.py", "import avmae_jax.config", "avmae_jax.config", "utils has no place"),
        ("launch/report.py", "from launch import evaluate", "launch.evaluate", "programs don't import each other"),
        ("launch/common/tables.py", "from .. import evaluate", "launch.evaluate", "programs don't import each other"),
        ("parity/check.py", "from launch.common import runtime", "launch.common", "parity is below launch"),
    ],
)
def test_a_wrong_import_is_refused_with_its_place_and_rule(tmp_path: Path, file: str, code: str, imported: str, rule: str) -> None:
    found = violations(tree(tmp_path, {"avmae_jax/models/mae.py": "", "launch/evaluate.py": "", file: code}))
    (key,) = found
    assert key == f"{module_of(Path(file), Path())} -> {imported}"
    assert re.search(rule, found[key])


def test_a_circle_of_files_or_folders_is_refused(tmp_path: Path) -> None:
    files = {"plots/canvas": "from .clips import x", "plots/clips": "def f():\n    from . import canvas"}
    files |= {"data/a/x": "from ..b import y", "data/b/y": "", "data/b/z": "import avmae_jax.data.a.w", "data/a/w": ""}
    found = violations(tree(tmp_path, {f"avmae_jax/{name}.py": code for name, code in files.items()}))
    assert [key.replace("avmae_jax.", "") for key in found] == ["data.a -> data.b -> data.a", "plots.canvas -> plots.clips -> plots.canvas"]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("avmae_jax/train/loop.py", "from avmae_jax.plots import canvas\nfrom ..models.mae import x"),
        ("avmae_jax/weights/tensor_files.py", "importlib.import_module('torch')"),
        ("avmae_jax/data/sources.py", "from avmae_jax.errors import x\nfrom avmae_jax.data import clip"),
        ("launch/report.py", "from launch.common import runtime\nfrom avmae_jax.report.build import x"),
        ("parity/check.py", "import torch\nfrom avmae_jax import load"),
    ],
)
def test_an_import_from_below_may_stay(tmp_path: Path, file: str, code: str) -> None:
    assert violations(tree(tmp_path, {file: code})) == {}


@pytest.mark.process
def test_predicting_imports_nothing_that_only_training_needs() -> None:
    """These take half a second of the four from a command to its answer."""
    words = "import sys, avmae_jax.inference.predict; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"orbax", "grain", "tensorflow_datasets", "matplotlib", "sklearn"} & set(done.stdout.split())
    assert "jax" in done.stdout.split()
