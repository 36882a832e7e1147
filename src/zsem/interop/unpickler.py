"""An unpickler that runs nothing foreign: known names give tensors, containers and numbers, others inert stubs."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from io import BufferedReader, BytesIO
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zsem.interop.allowed import (
    ALIASES,
    ALLOWED,
    CALLS,
    Refused,
    StorageType,
    Stub,
    check_dtype_state,
    checked_key,
    fill_array,
    printable,
)

COPIED = 2**28
"""Items that a file may have copied: a short one could otherwise repeat a long string without end."""

# Left out are the extension registry, whose objects come from a cache without find_class, classes as Python 2 made
# them, buffers outside the pickle, and persistent ids that are text
INHERITED = """PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE
BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST EMPTY_DICT EMPTY_SET GLOBAL STACK_GLOBAL BINPERSID
GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE"""


class _Opcodes(dict[int, Any]):
    def __missing__(self, opcode: int) -> Any:
        raise pickle.UnpicklingError(f"the pickle opcode {opcode}, which torch.save never writes")


class Unpickler(pickle._Unpickler):
    """Reads the pickles of one file, one `load()` after the other.

    This is the standard library's version in Python, because there every step in which a pickle acts on an object can
    be replaced: nothing is imported, called, built or changed but what `zsem.interop.allowed` names, and nothing that
    others share (functions, classes, dtypes) is ever changed. C's version would call `__setstate__` of whatever object.

    file: where the pickles are read from, to the byte.
    storage: given dtype, key and number of items of a storage, gives a tensor that holds it.
    stubs: the classes that stand in for unknown names, by module and name.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(self, file: BufferedReader | BytesIO, storage: Callable[[torch.dtype, str, int], Tensor]) -> None:
        super().__init__(file, encoding="utf-8")
        self.stubs: dict[tuple[str, str], type[Stub]] = {}
        self._storage = storage
        self._copied = 0

    def load(self) -> Any:
        self.memo = {}
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        known = (ALIASES.get(module, module), name)
        if known in ALLOWED:
            return ALLOWED[known]
        if known not in self.stubs:
            self.stubs[known] = type("Stub", (Stub,), {"__slots__": (), "dotted": printable(f"{module}.{name}")})
        return self.stubs[known]

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            # Left out: the device that it was saved from, and of the legacy format a view, older than torch 0.4
            case ("storage", StorageType() as kind, str() as key, str(), int() as items, *view) if items >= 0:
                if view in ([], [None]):
                    return self._storage(kind.dtype, key, items)
            case ("module", type() as kind, *_) if issubclass(kind, Stub):
                return kind
        raise Refused("has a persistent id that is no storage")

    def _call(self, function: Any, args: Any) -> Any:
        self._copy(args)
        if isinstance(function, Stub) or (isinstance(function, type) and issubclass(function, Stub)):
            return function(*args)
        if not callable(function) or function not in CALLS:
            raise Refused(f"calls {printable(getattr(function, '__name__', type(function).__name__))}")
        return CALLS[function](*args)

    def _copy(self, values: Any) -> None:
        """Take note of values that are about to be copied."""
        if not isinstance(values, tuple):
            raise pickle.UnpicklingError("values that are in no tuple")
        sized = (str, bytes, bytearray, list, tuple, dict, set, frozenset)
        self._copied += sum(len(value) for value in values if isinstance(value, sized))
        if self._copied > COPIED:
            raise Refused("copies the same data again and again")

    def _put(self, items: list[Any]) -> None:
        """Keys and values in turn, into the dictionary on top of the stack."""
        target = self.stack[-1]
        mapping = target.items if isinstance(target, Stub) else target
        if not isinstance(mapping, dict):
            raise Refused(f"sets items of {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            mapping[checked_key(key)] = value

    def _extend(self, items: list[Any]) -> None:
        """Items onto the end of the list on top of the stack."""
        target = self.stack[-1]
        sequence = target.elements if isinstance(target, Stub) else target
        if not isinstance(sequence, list):
            raise Refused(f"appends to {type(target).__name__}")
        sequence.extend(items)

    # One function per opcode that acts on objects

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        kwargs = self.stack.pop()
        self.load_reduce()
        made = self.stack[-1]
        if isinstance(made, Stub):
            made.kwargs = kwargs
        elif kwargs:
            raise Refused(f"makes {type(made).__name__} with named arguments")

    def load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, Stub):
            made.state = state
        elif isinstance(made, OrderedDict) and isinstance(state, dict):
            # The modules' versions, beside a state_dict; other attributes could hide methods
            if "_metadata" in state:
                vars(made)["_metadata"] = state["_metadata"]
        elif isinstance(made, np.dtype):
            check_dtype_state(state)
        elif isinstance(made, np.ndarray):
            self._copy(state)
            fill_array(made, state)
        else:
            raise Refused(f"sets the state of {type(made).__name__}")

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.elements.extend(items)
        elif isinstance(target, set):
            target.update(map(checked_key, items))
        else:
            raise Refused(f"adds items to {type(target).__name__}")

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(map(checked_key, items)))

    def load_bytearray8(self) -> None:
        # Read before there is room for it, as the length is only what the file claims
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    dispatch: ClassVar[dict[int, Any]] = _Opcodes(
        {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in INHERITED.split()}
        | {
            pickle.REDUCE[0]: load_reduce,
            pickle.NEWOBJ[0]: load_reduce,  # a class and its arguments, as a function and its arguments
            pickle.NEWOBJ_EX[0]: load_newobj_ex,
            pickle.BUILD[0]: load_build,
            pickle.APPEND[0]: load_append,
            pickle.APPENDS[0]: load_appends,
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
            pickle.DICT[0]: load_dict,
            pickle.ADDITEMS[0]: load_additems,
            pickle.FROZENSET[0]: load_frozenset,
            pickle.BYTEARRAY8[0]: load_bytearray8,
        }
    )
