"""Reads the text of a compiled program, XLA's HLO: which instructions it has, of which shapes, and where in the source they come from."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64,
    "u64": 64, "f64": 64, "c64": 64, "c128": 128, "f8e4m3fn": 8, "f8e5m2": 8,
}  # fmt: skip
_SHAPE = re.compile(r"\b(" + "|".join(BITS) + r")\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_OPCODE = re.compile(r"([\w\-]+)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_FUNCTION = re.compile(r'^(\d+) "(.*)"$')
_LOCATION = re.compile(r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+)")
_FRAME = re.compile(r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Holds the type of an array."""

    dtype: str  # as HLO writes it: bf16, f32, ...
    sizes: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Returns the size of the array."""
        return BITS[self.dtype] * math.prod(self.sizes) // 8


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """Holds one instruction."""

    name: str
    type: str  # of the result
    opcode: str
    operands: tuple[str, ...]  # names
    attributes: str  # all that follows the operands

    @functools.cached_property
    def shapes(self) -> list[Shape]:
        """Returns the shapes of the result; those of a tuple in their order."""
        return [Shape(dtype, tuple(map(int, filter(None, sizes.split(","))))) for dtype, sizes in _SHAPE.findall(self.type)]

    @property
    def bytes(self) -> int:
        """Returns the size of the result."""
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, pattern: str, default: str = "") -> str:
        """Returns what the first group of a regular expression finds in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else default


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """Holds the instructions of a function of the program, in the order in which they run."""

    instructions: Mapping[str, Instruction]
    root: str  # the name of the instruction whose value is returned

    def __iter__(self) -> Iterator[Instruction]:
        """Returns an iterator over the instructions."""
        return iter(self.instructions.values())

    def operand(self, instruction: Instruction, number: int) -> Instruction:
        """Returns the instruction that gives an operand."""
        return self.instructions[instruction.operands[number]]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Holds a program."""

    computations: Mapping[str, Computation]
    entry: str  # the name of the computation that runs
    frames: Mapping[int, Sequence[str]]  # of each stack frame: the functions of the source, innermost first
    header: str  # the first line, with the aliases between arguments and results

    @property
    def aliased(self) -> int:
        """Returns the number of results that lie in the memory of an argument."""
        return len(re.findall(r"(?:may|must)-alias", self.header))

    def source(self, instruction: Instruction) -> Sequence[str]:
        """Returns the functions of the source that an instruction comes from, innermost first."""
        frame = instruction.attribute(r"stack_frame_id=(\d+)")
        return self.frames.get(int(frame), ()) if frame else ()

    def called(self, instruction: Instruction, kind: str = "calls|to_apply") -> Computation | None:
        """Returns the computation that an instruction runs."""
        return self.computations.get(instruction.attribute(rf"(?:{kind})=\{{?%?([\w.\-]+)"))


def parse(text: str) -> Program:
    """Reads the text of `jax.stages.Compiled.as_text()`.

    Raises:
      ValueError: if it has no computation that runs.
    """
    computations: dict[str, Computation] = {}
    entry = name = root = ""
    instructions: dict[str, Instruction] = {}
    lines = text.splitlines()
    for line in lines:
        if line.startswith("}"):
            computations[name], name = Computation(instructions, root), ""
        elif not line.startswith(" ") and (found := _COMPUTATION.match(line)) and "=" not in line.split("(")[0]:
            name, instructions, root = found[2], {}, ""
            entry = name if found[1] else entry
        elif name and (instruction := _instruction(line)):
            instructions[instruction.name] = instruction
            root = instruction.name if line.lstrip().startswith("ROOT ") else root
    if not entry:
        raise ValueError("this is no text of a compiled program: no computation of it is called ENTRY")
    return Program(computations, entry, _frames(lines), next((line for line in lines if line.startswith("HloModule")), ""))


def _instruction(line: str) -> Instruction | None:
    left, equals, right = line.strip().partition(" = ")
    if not equals:
        return None
    kind, rest = _split_type(right)
    opcode = _OPCODE.match(rest)
    if not opcode:
        return None
    end = _closing(rest, opcode.end() - 1)
    operands = tuple(_NAME.findall(rest[opcode.end() : end]))
    return Instruction(left.removeprefix("ROOT ").lstrip("%"), kind, opcode[1], operands, rest[end + 1 :])


def _split_type(text: str) -> tuple[str, str]:
    """Separates the type of a result, which may be a tuple, from what follows it."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    return text[:end], text[end:].lstrip()


def _closing(text: str, begin: int) -> int:
    """Returns the place of the parenthesis that closes the one at `begin`."""
    depth = 0
    for place in range(begin, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    return len(text)


def _frames(lines: Sequence[str]) -> dict[int, Sequence[str]]:
    """Reads the tables of functions, of places in them and of stack frames in front of the computations."""
    functions: dict[int, str] = {}
    places: dict[int, int] = {}
    parents: dict[int, tuple[int, int]] = {}
    table = ""
    for line in lines:
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            table = line
        elif line.startswith(("%", "ENTRY")):
            break
        elif table == "FunctionNames" and (found := _FUNCTION.match(line)):
            functions[int(found[1])] = found[2]
        elif table == "FileLocations" and (found := _LOCATION.match(line)):
            places[int(found[1])] = int(found[3])
        elif table == "StackFrames" and (found := _FRAME.match(line)):
            parents[int(found[1])] = int(found[2]), int(found[3] or 0)

    def chain(frame: int) -> Iterator[str]:
        seen: set[int] = set()
        while frame in parents and frame not in seen:
            seen.add(frame)
            place, frame = parents[frame]
            yield functions.get(places.get(place, 0), "")

    return {frame: tuple(chain(frame)) for frame in parents}
