"""Counts what a compiled program computes, moves and sends, kernel by kernel."""

import dataclasses
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from avmae_jax.planning.hlo import Computation, Instruction, Program, Shape

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "partition-id", "replica-id", "opt-barrier"}
_VIEWS = {"slice", "dynamic-slice", "gather"}  # which read no more than they return
_BACKWARD = 2.5  # operations of attention's gradient for each one of attention: five products in place of two
_MESH = re.compile(r"replica_groups=mesh\[(?P<axes>[^\]]*)\](?:, device_ids=\((?P<order>[^ ]*)\))? \{(?P<chosen>[^}]*)\}")
_RANGE = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_HIGHEST = re.compile(r"highest", re.IGNORECASE)
_PARTS = {  # an opcode inside a kernel, or the function that it comes from -> the part of a step; the first that is found counts
    "erf": "GELU",
    "rsqrt": "layer norm",
    "_normalize": "layer norm",
    "norm_and_project": "layer norm",
    "_folded": "layer norm",
    "after_norm": "layer norm",
    "apply_updates": "optimizer",
    "scale_by": "optimizer",
    "tree_sum": "optimizer",
    "fft": "log-mel",
    "log_mel": "log-mel",
    "Attention.__call__": "q/k/v copies",
    "_cudnn": "q/k/v copies",
    "LinearGeneral.__call__": "bias gradients",
    "Linear.__call__": "bias gradients",
}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Holds what a kernel does in a step."""

    kind: str  # product | attention | other
    part: str  # of the step: that kind, or a row of _PARTS
    count: int  # runs in a step
    flops: float  # of one run
    bytes: float  # read and written by one run
    precision: str = ""  # of a product: bf16, f32 (TF32 on tensor cores) or f32 highest
    shapes: tuple[Shape, ...] = ()  # of a product's operands and its result; of attention's queries
    name: str = ""  # of the instruction


@dataclasses.dataclass(frozen=True)
class Collective:
    """Holds an exchange between devices."""

    kind: str  # a row of COLLECTIVES
    dtype: str
    shapes: tuple[Shape, ...]  # of what a device puts in; of what it gets out of an all-gather
    devices: int  # that exchange with each other
    across_hosts: bool
    count: int  # runs in a step

    @property
    def bytes(self) -> int:
        """Returns the size of one run's arrays on a device."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def sent(self) -> float:
        """Returns the bytes that a device sends in one run, around a ring."""
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.bytes
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * (self.devices - 1) / self.devices * self.bytes


@dataclasses.dataclass(frozen=True)
class Cost:
    """Holds what a device does in a step."""

    kernels: Sequence[Kernel]
    collectives: Sequence[Collective]

    @property
    def flops(self) -> float:
        """Returns the operations of products and attention."""
        return sum(kernel.count * kernel.flops for kernel in self.kernels)

    @property
    def bytes(self) -> float:
        """Returns the bytes that kernels read and write."""
        return sum(kernel.count * kernel.bytes for kernel in self.kernels)

    @property
    def by_part(self) -> dict[str, float]:
        """Returns the bytes of each part of the step, the largest first."""
        sums: dict[str, float] = defaultdict(float)
        for kernel in self.kernels:
            sums[kernel.part] += kernel.count * kernel.bytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def cudnn_calls(self) -> dict[str, int]:
        """Counts the calls of cuDNN's attention by "batch x tokens x heads x channels" of the queries, forward and backward together."""
        counts: Counter[str] = Counter()
        for kernel in self.kernels:
            if kernel.kind == "attention":
                counts[" x ".join(map(str, kernel.shapes[0].sizes))] += kernel.count
        return dict(counts)


def cost_of(program: Program, devices: int = 1, hosts: int = 1) -> Cost:
    """Counts what one device does when the program runs once.

    Args:
      program: compiled for GPUs.
      devices: for which it is compiled.
      hosts: among which these are divided evenly, in order.
    """
    kernels, collectives = [], []
    for computation, instruction, count in _run(program, program.computations[program.entry], 1):
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            collectives.append(_collective(computation, instruction, kind, count, (devices, hosts)))
        else:
            kernels.append(dataclasses.replace(_kernel(program, computation, instruction, count), name=instruction.name))
    return Cost(kernels, collectives)


def _run(program: Program, computation: Computation, times: int) -> Iterator[tuple[Computation, Instruction, int]]:
    """Yields each instruction that does something, with the number of times that it runs; follows calls and loops."""
    for instruction in computation:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            continue
        if opcode in ("call", "async-start") and (inner := program.called(instruction)):
            yield from _run(program, inner, times)
        elif opcode == "while" and (body := program.called(instruction, "body")):
            trips = int(instruction.attribute(r'known_trip_count":\{"n":"?(\d+)', "1"))
            yield from _run(program, body, times * trips)
        elif opcode == "conditional" and (branch := program.called(instruction, "branch_computations|true_computation")):
            yield from _run(program, branch, times)  # one of several
        else:
            yield computation, instruction, times


def _collective(computation: Computation, instruction: Instruction, kind: str, count: int, machine: tuple[int, int]) -> Collective:
    given = [shape for number in range(len(instruction.operands)) for shape in computation.operand(instruction, number).shapes]
    groups = groups_of(instruction.attributes, machine[0])
    if kind == "all-gather":
        given = instruction.shapes[-len(given) :]  # of one that runs beside others, the type also lists what is put in
    host = groups // max(1, machine[0] // machine[1])
    dtype = max(given, key=lambda shape: shape.bytes).dtype if given else ""
    return Collective(kind, dtype, tuple(given), groups.shape[1], bool((host != host[:, :1]).any()), count)


def groups_of(attributes: str, devices: int) -> np.ndarray:
    """Reads which devices exchange with each other: int[groups, devices of one].

    Raises:
      ValueError: if they are written in a form that is none of HLO's three: axes of a mesh, a reshaped range, or lists.
    """
    everyone = np.arange(devices)
    if found := _MESH.search(attributes):
        axes, order, chosen = found["axes"], found["order"], re.findall(r"'(\w+)'", found["chosen"])
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
        names = list(sizes)
        grid = _device_order(everyone, order or "").reshape(list(sizes.values()))
        last = [names.index(name) for name in chosen]
        return grid.transpose([*sorted({*range(len(names))} - {*last}), *last]).reshape(-1, math.prod(sizes[name] for name in chosen))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        return _reordered(everyone, found[3], found[4]).reshape(int(found[1]), int(found[2]))
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]+\})\}", attributes):
        return np.array([[int(number) for number in group.split(",")] for group in re.findall(r"\{([\d, ]+)\}", found[1])])
    if "replica_groups=" in attributes and "replica_groups={}" not in attributes:
        raise ValueError(f"unknown form of replica_groups in a compiled program: {attributes[:200]}")
    return everyone[None]


def _device_order(everyone: np.ndarray, text: str) -> np.ndarray:
    """Reads the devices of a mesh in the order of its axes, by default that of their numbers; raises ValueError for an unknown form."""
    if not text:
        return everyone
    if found := _RANGE.fullmatch(text):
        return _reordered(everyone, found[1], found[2])
    if re.fullmatch(r"[\d,]+", text):
        return np.array([int(number) for number in text.split(",")])
    raise ValueError(f"unknown form of device_ids in a compiled program: {text[:200]}")


def _reordered(numbers: np.ndarray, sizes: str, axes: str | None) -> np.ndarray:
    """Arranges numbers in a grid, and takes them out with its axes in another order."""
    grid = numbers.reshape([int(size) for size in sizes.split(",")])
    return grid.transpose([int(axis) for axis in axes.split(",")]).ravel() if axes else grid.ravel()


def _kernel(program: Program, computation: Computation, instruction: Instruction, count: int) -> Kernel:
    target = instruction.attribute(r'custom_call_target="([^"]*)"')
    given = [computation.operand(instruction, number) for number in range(len(instruction.operands))]
    read = sum(operand.bytes for operand in given)
    if target.startswith("__cublas"):
        result, settings = instruction.shapes[0], json.loads(instruction.attribute(r"backend_config=(\{.*\})"))
        product = settings["gemm_backend_config"]
        contracted = map(int, product["dot_dimension_numbers"]["lhs_contracting_dimensions"])
        left, right = given[0].shapes[0], given[1].shapes[0]
        flops = 2 * math.prod(left.sizes[axis] for axis in contracted) * math.prod(result.sizes)
        precision = _precision(left, json.dumps(product.get("precision_config", {})))
        return Kernel("product", "product", count, flops, read + result.bytes, precision, (left, right, result))
    if "fmha" in target:
        queries = given[0].shapes[0]
        batch, tokens, heads, channels = queries.sizes
        flops = 4 * batch * heads * tokens**2 * channels * (_BACKWARD if "Backward" in target else 1)
        written = sum(shape.bytes for shape in instruction.shapes if shape.dtype != "u8")  # without the workspace
        return Kernel("attention", "attention", count, flops, read + written, shapes=(queries,))
    if instruction.opcode == "fusion" and (inside := program.called(instruction)):
        products = [_dot(inside, each) for each in inside if each.opcode == "dot"]
        moved = _fused_bytes(inside)
        if products:
            flops, precision = sum(flops for flops, _, _ in products), max(precision for _, precision, _ in products)
            return Kernel("product", "product", count, flops, moved, precision, products[0][2])
        return Kernel("other", _part(program, instruction, inside), count, 0, moved)
    if instruction.opcode == "dot":
        flops, precision, shapes = _dot(computation, instruction)
        return Kernel("product", "product", count, flops, read + instruction.bytes, precision, shapes)
    part = "log-mel" if instruction.opcode == "fft" else "copies" if instruction.opcode == "copy" else "the rest"
    return Kernel("other", part, count, 0, read + instruction.bytes)


def _dot(computation: Computation, instruction: Instruction) -> tuple[float, str, tuple[Shape, ...]]:
    """Returns operations, precision and shapes of a product that no library computes."""
    left, right = (computation.operand(instruction, number).shapes[0] for number in range(2))
    result = instruction.shapes[0]
    axes = [int(axis) for axis in instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}").split(",") if axis]
    flops = 2 * math.prod(left.sizes[axis] for axis in axes) * math.prod(result.sizes)
    return flops, _precision(left, instruction.attribute(r"operand_precision=\{([^}]*)\}")), (left, right, result)


def _precision(operand: Shape, settings: str) -> str:
    return f"{operand.dtype} highest" if operand.dtype == "f32" and _HIGHEST.search(settings) else operand.dtype


def _fused_bytes(inside: Computation) -> float:
    """Returns the bytes that a fused kernel moves: of what it only slices, the slice; of what it updates in place, the update."""
    users: Mapping[str, list[Instruction]] = defaultdict(list)
    for instruction in inside:
        for name in instruction.operands:
            users[name].append(instruction)

    def read(instruction: Instruction) -> float:
        total = 0.0
        for user in users[instruction.name]:
            if user.opcode == "bitcast":
                total += read(user)
            elif user.opcode in _VIEWS:
                total += user.bytes
            elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == instruction.name):
                return math.inf
        return total

    def written(instruction: Instruction) -> float:
        if instruction.opcode == "tuple":
            return sum(written(inside.instructions[name]) for name in instruction.operands)
        if instruction.opcode == "bitcast" and instruction.operands[0] in inside.instructions:
            return written(inside.operand(instruction, 0))
        return inside.operand(instruction, 1).bytes if instruction.opcode == "dynamic-update-slice" else instruction.bytes

    taken = sum(min(each.bytes, read(each)) for each in inside if each.opcode == "parameter")
    return taken + written(inside.instructions[inside.root])


def _part(program: Program, instruction: Instruction, inside: Computation) -> str:
    """Names the part of a step that a fused kernel belongs to, mostly by what it is made of."""
    opcodes: Counter[Any] = Counter(each.opcode for each in inside)
    functions = " ".join(program.source(instruction))
    for sign, part in _PARTS.items():
        if sign in opcodes or sign in functions:
            return part
    return "casts" if {*opcodes} <= {"parameter", "convert", "bitcast", "copy", "transpose"} else "the rest"
