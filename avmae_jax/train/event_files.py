"""Imports what writes TensorBoard's event files, without PyTorch.

tensorboardX imports PyTorch where it is installed, and goes on without it where it isn't. All that it takes from it is a type for its
annotations, which would cost every start of a program seconds.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Makes the import of a module fail in the block, unless it is imported already.

    An entry None in sys.modules is Python's documented way: such an import raises ModuleNotFoundError. The entry is gone after the block,
    so that a later import works. Another thread that imports the module meanwhile would fail, but programs import this file before they
    start any.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # pyright: ignore[reportArgumentType] - documented, but not in the type of sys.modules
    try:
        yield
    finally:
        del sys.modules[name]


with _absent("torch"):
    from tensorboardX.event_file_writer import EventsWriter as EventsWriter
    from tensorboardX.proto.event_pb2 import Event as Event  # pyright: ignore[reportAttributeAccessIssue] - generated
    from tensorboardX.proto.event_pb2 import SessionLog as SessionLog  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.proto.summary_pb2 import Summary as Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.summary import scalar as scalar
