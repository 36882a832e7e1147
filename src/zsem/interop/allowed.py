"""The names that a pickle may use, and what each of them does here: nothing that the pickle says is trusted."""

from __future__ import annotations

import math
import pickle
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

EXPANDED = 2**26
"""Numbers of a tensor that repeats its storage; more of them would be a bomb for whoever copies the tensor."""
KEY_ITEMS = 1000
"""Items of a nested key: hashing tuples of tuples of tuples can take for ever, or overflow the stack."""
PLAIN_DTYPE = re.compile(r"[biufcSU]\d{1,6}")
"""Numbers and text; numpy's other types are pointers, or parse what they are given."""


class Refused(pickle.UnpicklingError):
    """The file asks for what this reader does not do; the message goes on from "the file ..."."""


class Stub:
    """Stands in for an object whose class is not known here; every class that a file names has a subclass of its own.

    dotted: the name in the file, made printable. The rest is what the file says of the object, and none of it is run:
    the arguments of its construction, its state, and what was appended to it or set as items.
    """

    __slots__ = ("args", "elements", "items", "kwargs", "state")
    dotted: ClassVar[str] = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args: tuple[Any, ...] = args
        self.kwargs: Any = kwargs
        self.state: Any = None
        self.elements: list[Any] = []
        self.items: dict[Any, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        return type(self)(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<stub of {self.dotted}>"


@dataclass(frozen=True)
class StorageType:
    """What a storage holds, as a persistent id names it."""

    dtype: torch.dtype


def printable(text: str) -> str:
    """Foreign text as it may stand in a sentence: short, and without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def checked_key(key: Any) -> Any:
    """The key as it is; raises Refused where it nests more than can be hashed."""
    items = [key]
    for item in items:
        if isinstance(item, tuple | frozenset):
            items.extend(item)
            if len(items) > KEY_ITEMS:
                raise Refused("has a key that nests too deeply")
    return key


# The arguments below come from the file, hence Any: annotations must not promise what nobody has checked.


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    _hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    return _tensor(storage, offset, size, stride, requires_grad, storage.dtype, metadata)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    _hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    return _tensor(storage, offset, size, stride, requires_grad, dtype, metadata)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, dtype: Any, metadata: Any) -> Tensor:
    held = storage.untyped_storage()
    size, stride, (offset,) = _integers(size), _integers(stride), _integers((offset,))
    numbers = math.prod(size)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if numbers else offset
    # Checked here, as torch would make some storages larger rather than complain
    if end > held.nbytes() // dtype.itemsize or numbers > max(held.nbytes(), EXPANDED):
        raise pickle.UnpicklingError(f"a tensor of shape {list(size)[:8]} in a storage of {held.nbytes()} bytes")
    tensor = torch.empty(0, dtype=dtype).set_(held, offset, size, stride)
    if metadata:
        if metadata != {"conj": True}:
            raise Refused("has a tensor that is negated when it is read")
        tensor = tensor.conj()
    return tensor.requires_grad_() if requires_grad is True else tensor


def _rebuild_parameter(data: Any, requires_grad: Any, _hooks: Any = None, _state: Any = None) -> Tensor:
    if not isinstance(data, Tensor):
        raise pickle.UnpicklingError("a parameter without a tensor")
    return torch.nn.Parameter(data, requires_grad is True)


def _rebuild_from_type(function: Any, _type: Any, args: Any, _state: Any) -> Tensor:
    if not isinstance(args, tuple) or (function is not _rebuild_tensor and function is not _rebuild_tensor_v3):
        raise Refused("has a tensor of a foreign kind")
    return function(*args)


def _sequence(values: Any) -> Any:
    # ranges and tensors would go on for as long as the file likes
    if not isinstance(values, list | tuple | set | frozenset):
        raise pickle.UnpicklingError("items that are in no list")
    return values


def _integers(values: Any) -> tuple[int, ...]:
    numbers = tuple(_sequence(values))
    if any(not isinstance(number, int) or not 0 <= number < 2**63 for number in numbers):
        raise pickle.UnpicklingError("a size that is no number")
    return numbers


def _size(numbers: Any = ()) -> torch.Size:
    return torch.Size(_integers(numbers))


def _device(*which: Any) -> torch.device:
    if not which or not isinstance(which[0], str):  # a number alone would ask the machine for its accelerators
        raise pickle.UnpicklingError("a device without a name")
    return torch.device(*which)


def _layout(name: Any) -> torch.layout:
    return {"torch.strided": torch.strided, "torch.sparse_coo": torch.sparse_coo}[name]


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    pairs = list(pairs.items()) if isinstance(pairs, dict) else _sequence(pairs)
    return OrderedDict((checked_key(key), value) for key, value in pairs)


def _default_dict(factory: Any = None) -> defaultdict[Any, Any]:
    if factory is None or factory in PLAIN_TYPES or issubclass(factory, Stub):
        return defaultdict(factory)
    raise Refused("has a defaultdict whose default is of no plain type")


def _counter(counts: Any = ()) -> Counter[Any]:
    return Counter(dict(_ordered_dict(counts)))


def _set(values: Any = ()) -> set[Any]:
    return set(map(checked_key, _sequence(values)))


def _frozenset(values: Any = ()) -> frozenset[Any]:
    return frozenset(_set(values))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as pickles of protocol 2 hold them."""
    if encoding not in ("latin1", "latin-1"):
        raise Refused("encodes text otherwise than bytes are kept")
    return text.encode("latin1")


def _bytes() -> bytes:
    return b""


def _bytearray(data: Any = b"", encoding: Any = "latin1") -> bytearray:
    data = _encode(data, encoding) if isinstance(data, str) else data
    if not isinstance(data, bytes | bytearray):
        raise Refused("makes a bytearray of no bytes")  # of a number it would be that many zeros
    return bytearray(data)


def _complex(real: Any, imag: Any) -> complex:
    return complex(float(real), float(imag))


def _dtype(name: Any, *_: Any) -> np.dtype[Any]:
    if not PLAIN_DTYPE.fullmatch(name):
        raise Refused(f"has numpy values of type {printable(name)}")
    return np.dtype(name)


def check_dtype_state(state: Any) -> None:
    """Raises Refused unless the state says what a plain dtype is anyway. It is never set, as dtypes are shared."""
    _, order, *fields = state[:5]
    if order not in ("<" if np.little_endian else ">", "|", "=") or any(field is not None for field in fields):
        raise Refused("has numpy values of another byte order or of several fields")


def _scalar(dtype: Any, data: Any) -> np.generic:
    _check_array((), dtype, data)
    return np.frombuffer(data, dtype)[0] if dtype.itemsize else dtype.type()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    array = np.empty(0, np.uint8)
    fill_array(array, (1, shape, dtype, order == "F", data))
    return array


def _reconstruct(kind: Any, *_: Any) -> np.ndarray:
    if kind is not np.ndarray:
        raise Refused("has a numpy array of a foreign kind")
    return np.empty(0, np.uint8)


def fill_array(array: np.ndarray, state: Any) -> None:
    """Give an empty array its contents as a pickle states them; raises UnpicklingError where they do not fit."""
    _, shape, dtype, fortran, data = state
    shape = _integers(shape)
    _check_array(shape, dtype, data)
    if array.size:  # what it holds may be seen by others
        raise pickle.UnpicklingError("a numpy array that is filled twice")
    checked: Any = (1, shape, dtype, fortran is True, bytes(data))
    array.__setstate__(checked)


def _check_array(shape: tuple[int, ...], dtype: Any, data: Any) -> None:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("a numpy array without type or data")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise pickle.UnpicklingError("a numpy array whose data are not of its size")


STORAGES = {
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}

PLAIN_TYPES = (list, dict, tuple, str, int, float, bool, set, frozenset, complex, bytes, bytearray)

ALIASES = {
    "__builtin__": "builtins",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "torch.tensor": "torch._tensor",
    "torch.storage": "torch",
}
"""Other names of the modules below: of Python 2, of numpy 2, and of older torch."""

ALLOWED: dict[tuple[str, str], Any] = {
    **{("builtins", kind.__name__): kind for kind in PLAIN_TYPES},
    **{("torch", f"{name}Storage"): StorageType(dtype) for name, dtype in STORAGES.items()},
    **{("torch", name): dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)},
    ("builtins", "slice"): slice,
    ("builtins", "range"): range,
    ("builtins", "xrange"): range,  # protocol 2 keeps to the names of Python 2
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("collections", "Counter"): Counter,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch", "Tensor"): Tensor,
    ("torch._tensor", "Tensor"): Tensor,
    ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
    ("torch.serialization", "_get_layout"): _layout,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
}
"""All names that mean something. A name with dots is one name, and reaches nothing inside an object."""

CALLS: dict[Any, Callable[..., Any]] = {
    **{function: function for function in ALLOWED.values() if isinstance(function, FunctionType)},
    OrderedDict: _ordered_dict,
    defaultdict: _default_dict,
    Counter: _counter,
    set: _set,
    frozenset: _frozenset,
    bytes: _bytes,
    bytearray: _bytearray,
    complex: _complex,
    slice: slice,
    range: range,
    np.dtype: _dtype,
    torch.Size: _size,
    torch.device: _device,
}
"""What may be called, and what is called in its place; all else in ALLOWED is only there as a value."""
