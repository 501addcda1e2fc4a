"""Reads the pickle inside a PyTorch file, without PyTorch and without executing anything.

A pickle is a program that may import and call whatever it names. Here pickletools of the standard library splits it into its instructions,
and a small stack machine follows those that build plain values. It has no means to import or call: a tensor becomes a description of where
its values lie, and any other object becomes OTHER. Objects are of an allow-list of types that training programs store beside the tensors;
a file that names anything else is refused, since whoever opens it by other means would run it.
"""

import mmap
import pickletools
import re
import sys
from typing import IO, Any, NamedTuple, cast

from avmae_jax.errors import WeightsError

_INSTRUCTIONS = 1_000_000  # more than any checkpoint has, where a tensor takes about 40; a hostile file could go on for hours


class Global(NamedTuple):
    """Names a class or function of Python."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Storage(NamedTuple):
    """Describes a block of values of one type, which lies outside of the pickle."""

    kind: str  # of its values, "Float", ...; "Untyped" for bytes
    key: str
    length: int  # in values; of an UntypedStorage in bytes


class Tensor(NamedTuple):
    """Describes a tensor that is part of a storage. Numbers are those in the file, which may be any."""

    storage: Storage
    kind: str  # of its values, as of the storage, or the name of a newer type, "float8_e4m3fn", ...
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Other:
    """Marks what is left out."""


OTHER = _Other()  # stands for each object that is neither a tensor nor a plain value

# Longest name of a class, most arguments of a call, most axes: what is kept for later can be used by every instruction.
_NAME, _ARGUMENTS, _AXES = 300, 100, 64

_PLAIN = (str, int, float, bytes, type(None))  # types of keys; anything nested could exhaust the stack when it is hashed
_MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict")
_REBUILT = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
_WRAPPED = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_RETYPED = "torch._tensor._rebuild_from_type_v2"
_TYPES = r"(b?float|u?int|complex|bool|q?u?int|bits|half|double|long|short|str|bytes|void|object|datetime64|timedelta64)\w*"  # of values
# What training programs store beside tensors: settings, numbers, dates, paths, containers.
_HARMLESS = re.compile(
    "|".join(
        (
            r"(builtins|__builtin__)\.(set|frozenset|complex|slice|range|xrange|bytearray|bytes|list|dict|tuple|int|long|float|bool|object)",
            r"(builtins|__builtin__)\.(str|unicode)",
            r"(builtins|__builtin__)\.(Ellipsis|NotImplemented|NotImplementedType|ellipsis)",
            r"collections\.(OrderedDict|defaultdict|deque|Counter|ChainMap|UserDict|UserList|UserString)|UserDict\.(Iterable)?UserDict",
            r"array\.(array|_array_reconstructor)",
            r"argparse\.Namespace",
            r"types\.SimpleNamespace",
            r"typing\.Any",
            r"_codecs\.encode",
            r"(copyreg|copy_reg)\._reconstructor",
            r"datetime\.(datetime|date|time|timedelta|timezone)",
            r"decimal\.Decimal",
            r"fractions\.Fraction",
            r"uuid\.UUID|time\.struct_time|ipaddress\.IPv[46](Address|Network|Interface)",
            r"random\.Random",
            r"pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path",
            rf"numpy\.(dtype|ndarray|matrix|generic|number|{_TYPES})",
            r"numpy\.random\._pickle\.__(randomstate|generator|bit_generator)_ctor",
            r"numpy\.random\.(mtrand\.RandomState|_generator\.Generator|_\w+\.(MT19937|PCG64|PCG64DXSM|Philox|SFC64))",
            r"numpy\.random\.bit_generator\.(__pyx_unpickle_)?SeedSequence",
            r"numpy\.ma(\.core)?\.(MaskedArray|_mareconstruct)|numpy\.(rec\.|core\.records\.)?(recarray|record)",
            r"numpy\._?core\.records\.(recarray|record)",
            r"numpy\.dtypes\.\w+DType",
            r"numpy\._?core\.multiarray\.(scalar|_reconstruct)",
            r"numpy\._?core\.numeric\._frombuffer",
            r"torch(\.storage|\.cuda)?\.\w*Storage",
            rf"torch\.(Size|device|Tensor|Generator|strided|sparse_\w+|per_\w+|{_TYPES})",
            r"torch\._C\.Generator|torch\.torch_version\.TorchVersion",
            r"(torch\._utils\.)?torch\.(contiguous_format|preserve_format|channels_last(_3d)?)",
            r"torch\._utils\._rebuild_\w+",
            r"torch\._tensor\._rebuild_from_type_v2",
            r"torch\.nn\.parameter\.(Parameter|Buffer)",
            r"torch\.serialization\._get_layout",
            r"omegaconf\.(dictconfig\.DictConfig|listconfig\.ListConfig|base\.\w*Metadata|nodes\.\w+Node)",
            r"easydict\.EasyDict|yacs\.config\.CfgNode|addict\.addict\.Dict|ml_collections\.config_dict\.config_dict\.ConfigDict",
            r"(pytorch_lightning\.utilities\.parsing|lightning_fabric\.utilities\.data|lightning\.fabric\.utilities\.data)\.AttributeDict",
        )
    )
)
# The class of an enumeration may have any name. Python pickles a member as a call of its class with one plain value, or as getattr of it.
_ENUMERATION = re.compile(r"([A-Z]\w*\.)*_?[A-Z]\w*")
_GETATTR = ("builtins.getattr", "__builtin__.getattr")
_STANDARD = sys.stdlib_module_names | {"__builtin__"}

_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Pickle(NamedTuple):
    """Holds what a pickle describes."""

    content: Any  # dicts with plain keys, lists, tuples, numbers and texts, with Tensors and OTHER in them
    storages: dict[str, Storage]  # by key


def read_pickle(file: IO[bytes] | mmap.mmap) -> Pickle:
    """Reads one pickle, from the file's position to the end of the pickle.

    Raises:
      WeightsError: naming what the file refers to beyond the allow-list.
      ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError: if it is damaged.
    """
    machine = _Machine()
    for count, (instruction, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
        if count == _INSTRUCTIONS:
            raise ValueError(f"its pickle has more than {_INSTRUCTIONS} instructions")
        machine.follow(instruction.name, argument)
    return Pickle(machine.stack.pop(), machine.storages)


class _Machine:
    """Follows the instructions of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self._marks: list[int] = []  # lengths of the stack where the items of a container begin
        self._memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        """Follows one instruction; raises ValueError for one that no checkpoint has."""
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(argument)
        elif name in _VALUES:
            stack.append(_VALUES[name])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        elif name in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[name])))
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("POP", "POP_MARK"):
            self._pop(1) if name == "POP" else self._items()
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(_checked(argument.split(" ", 1) if name == "GLOBAL" else self._pop(2)))
        elif name not in ("PROTO", "FRAME", "STOP") and not self._build(name):
            raise ValueError(f"its pickle has the instruction {name}")

    def _build(self, name: str) -> bool:
        """Follows an instruction that makes or fills an object; returns False if it is none."""
        stack = self.stack
        match name:
            case "EMPTY_DICT" | "EMPTY_LIST":
                stack.append({} if name == "EMPTY_DICT" else [])
            case "EMPTY_SET":
                stack.append(OTHER)
            case "TUPLE" | "LIST" | "FROZENSET":
                items = self._items()
                stack.append(tuple(items) if name == "TUPLE" else items if name == "LIST" else OTHER)
            case "DICT":
                items = self._items()
                stack.append({})
                _set_items(stack[-1], items)
            case "APPEND" | "APPENDS" | "ADDITEMS":
                items = self._pop(1) if name == "APPEND" else self._items()
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if name == "SETITEM" else self._items()
                _set_items(stack[-1], items)
            case "BUILD":
                self._pop(1)  # attributes of the object below it, which stays as it is
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                function, arguments, *_ = self._pop(3 if name == "NEWOBJ_EX" else 2)
                stack.append(_made(function, arguments, calls=name == "REDUCE"))
            case "BINPERSID":
                described = _described(*self._pop(1))
                stack.append(self.storages.setdefault(described.key, described) if isinstance(described, Storage) else described)
            case _:
                return False
        return True

    def _pop(self, count: int) -> list[Any]:
        """Takes the last items off the stack."""
        if count > len(self.stack):
            raise IndexError("its pickle takes more than there is")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _items(self) -> list[Any]:
        """Takes everything after the last mark off the stack."""
        return self._pop(max(len(self.stack) - self._marks.pop(), 0))


def _checked(name: list[Any]) -> Global:
    """Returns a name; raises WeightsError for one that neither is on the allow-list nor can be an enumeration's."""
    found = Global(*(str(part)[:_NAME] for part in name))
    unknown = _HARMLESS.fullmatch(str(found)) is None and str(found) not in _GETATTR
    if unknown and (found.module.split(".")[0] in _STANDARD or not _ENUMERATION.fullmatch(found.name)):
        raise refused(found)
    return found


def refused(name: Global) -> WeightsError:
    """Returns the error for what is neither a tensor nor harmless."""
    shown = str(name)[:200].encode("unicode_escape").decode()
    remedy = "where you trust it, save its state dict alone: torch.save(model.state_dict(), FILE)"
    return WeightsError(f"holds {shown}, which is no tensor but code, and was not run; {remedy}")


def _made(function: Any, arguments: Any, *, calls: bool) -> Any:
    """Returns what stands for the result of a call; raises WeightsError for one that isn't harmless."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple) or len(arguments) > _ARGUMENTS:
        raise ValueError("its pickle calls what is no function, or with too many arguments")
    name = str(function)
    if calls and _is_member(function, arguments):
        return OTHER
    codes = [code for code in (function, *arguments) if isinstance(code, Global) and _HARMLESS.fullmatch(str(code)) is None]
    if codes and name != _RETYPED:
        raise refused(codes[0])
    if name in _MAPPINGS:
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        mapping = {key: value for key, value in pairs if isinstance(key, _PLAIN)}
        pairs.clear()  # nothing else uses them, and they can't be copied again and again
        return mapping
    if name in _REBUILT:
        return _tensor(name, *arguments)
    if name in _WRAPPED:
        return arguments[0]
    if name == _RETYPED:
        function, _, inner, _ = arguments
        return _made(function, inner, calls=True)
    return OTHER


def _is_member(function: Global, arguments: tuple[Any, ...]) -> bool:
    """Returns True for a call that makes a member of an enumeration."""
    if str(function) in _GETATTR:
        match arguments:
            case (Global() as owner, str()):
                return _ENUMERATION.fullmatch(owner.name) is not None
        raise refused(function)
    is_class = _HARMLESS.fullmatch(str(function)) is None
    return is_class and len(arguments) == 1 and isinstance(arguments[0], _PLAIN)


def _set_items(target: Any, items: list[Any]) -> None:
    """Sets keys and values, which alternate, of a dict; those with a key that isn't plain, and those of other objects, are dropped."""
    pairs = zip(items[::2], items[1::2], strict=True)
    if isinstance(target, dict):
        target.update((key, value) for key, value in pairs if isinstance(key, _PLAIN))


def _described(description: Any) -> Storage | Global:
    """Reads the description of a storage, ("storage", type, key, device, length, view), or of a class, ("module", class, file, source)."""
    match description:
        case ("module", Global() as found, *_):
            return found
        case ("storage", Global(name=kind), str(key), _, int(length), *rest) if rest in ([], [None]):
            return Storage(kind.removesuffix("Storage"), key, length)
    raise ValueError("its pickle describes a storage wrongly")


def _tensor(name: str, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Any:
    """Returns the description of a tensor, the arguments of torch's _rebuild_tensor: after these, requires_grad, hooks, type, metadata."""
    sized = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= _AXES
    if not isinstance(storage, Storage) or not sized or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise ValueError("its pickle describes a tensor wrongly")
    newer = name.endswith("v3")
    kind = more[2].name if newer else storage.kind
    if any(more[3 if newer else 2 :]):  # of a conjugated or negated view, which isn't the stored values
        return OTHER
    return Tensor(storage, kind, offset, shape, strides)
