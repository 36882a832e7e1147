"""Pickles that attack: nothing runs, nothing that others share changes, nothing grows without end."""

import contextlib
import copyreg
import io
import os
import pickle
import shlex
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zsem.interop.allowed import Stub
from zsem.interop.pickles import read_pickle
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError

EXTENSION = 4321


class Plain(pickle.Unpickler):
    """The standard library's unpickler, as torch.load had it: the payloads must be real ones."""

    def persistent_load(self, pid: Any) -> Any:
        return pid


# Payloads are put together by hand, as pickle.dumps would not write most of them


def text(value: object) -> bytes:
    data = str(value).encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def raw(data: bytes) -> bytes:
    return pickle.BINBYTES + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return pickle.LONG1 + b"\x10" + value.to_bytes(16, "little", signed=True)


def named(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def dotted(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL


def tuple_of(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def call(function: bytes, *args: bytes) -> bytes:
    return function + tuple_of(*args) + pickle.REDUCE


def built(thing: bytes, *state: bytes) -> bytes:
    return thing + tuple_of(*state) + pickle.BUILD


def dict_of(*items: bytes) -> bytes:
    return pickle.EMPTY_DICT + pickle.MARK + b"".join(items) + pickle.SETITEMS


def whole(body: bytes, protocol: int = 4) -> bytes:
    return pickle.PROTO + bytes([protocol]) + body + pickle.STOP


def mkdir(trace: Path) -> bytes:
    return call(named("os", "mkdir"), text(trace))


def get_item(of: bytes, key: str) -> bytes:
    return call(named("operator", "getitem"), of, text(key))


def importing(trace: Path) -> bytes:
    (trace.parent / f"{trace.parent.name}_module.py").write_text(
        f"import os\nos.mkdir({str(trace)!r})\nFloatStorage = 1"
    )
    return named(f"{trace.parent.name}_module", "FloatStorage")


def from_hub(trace: Path) -> bytes:
    (trace.parent / "hubconf.py").write_text(f"import os\ndef model(): os.mkdir({str(trace)!r})")
    return call(named("torch.hub", "_load_local"), text(trace.parent), text("model"))


def python(trace: Path) -> bytes:
    return text(f"__import__('os').mkdir({str(trace)!r})")


ROUTES: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda t: call(named("os", "system"), text(f"mkdir {shlex.quote(str(t))}")),
    "subprocess": lambda t: call(named("subprocess", "check_call"), tuple_of(text("mkdir"), text(t))),
    "eval": lambda t: call(named("builtins", "eval"), python(t)),
    "exec": lambda t: call(named("builtins", "exec"), python(t)),
    "getattr": lambda t: call(
        call(named("builtins", "getattr"), call(named("builtins", "__import__"), text("os")), text("mkdir")), text(t)
    ),
    "a module inside an allowed one": lambda t: call(dotted("torch", "os.mkdir"), text(t)),
    "globals of an allowed module's function": lambda t: call(
        get_item(get_item(dotted("collections", "namedtuple.__globals__"), "__builtins__"), "eval"), python(t)
    ),
    "a class's method": lambda t: call(dotted("pathlib", "Path.mkdir"), call(named("pathlib", "Path"), text(t))),
    "INST": lambda t: pickle.MARK + text(t) + pickle.INST + b"os\nmkdir\n",
    "OBJ": lambda t: pickle.MARK + named("os", "mkdir") + text(t) + pickle.OBJ,
    "NEWOBJ": lambda t: (
        named("numpy", "memmap") + tuple_of(text(t), text("u1"), text("w+"), number(0), number(1)) + pickle.NEWOBJ
    ),
    "NEWOBJ_EX": lambda t: (
        named("numpy", "memmap")
        + pickle.EMPTY_TUPLE
        + dict_of(text("filename"), text(t), text("mode"), text("w+"), text("shape"), number(1))
        + pickle.NEWOBJ_EX
    ),
    "functools.partial": lambda t: call(call(named("functools", "partial"), named("os", "mkdir"), text(t))),
    "BUILD": lambda t: call(
        named("functools", "partial")
        + tuple_of(named("builtins", "int"))
        + pickle.NEWOBJ
        + tuple_of(named("os", "mkdir"), tuple_of(text(t)), pickle.EMPTY_DICT, pickle.NONE)
        + pickle.BUILD
    ),
    "the extension registry": lambda t: call(pickle.EXT2 + struct.pack("<H", EXTENSION), text(t)),
    "a pickle in a pickle": lambda t: call(named("pickle", "loads"), raw(whole(mkdir(t)))),
    "numpy's objects": lambda t: raw(b"") + mkdir(t) + pickle.TUPLE2,
    "torch.hub": from_hub,
    "an import": importing,
    "copyreg": lambda t: call(named("copyreg", "__newobj__"), named("numpy", "memmap"), text(t), text("u1"), text("w+"),
                              number(0), number(1)),
    "inside a persistent id": lambda t: tuple_of(text("storage"), mkdir(t)) + pickle.BINPERSID,
    "as a key": lambda t: dict_of(mkdir(t), number(1)),
    "as arguments of a tensor": lambda t: call(named("torch._utils", "_rebuild_tensor_v2"), mkdir(t)),
    "as a defaultdict's default": lambda t: call(named("collections", "defaultdict"), mkdir(t)),
    "as the state of a state_dict": lambda t: HOOKS + dict_of(text("a"), mkdir(t)) + pickle.BUILD,
}  # fmt: skip


@pytest.fixture
def extension():
    """A function that a program has given a number for pickles."""
    copyreg.add_extension("os", "mkdir", EXTENSION)
    yield
    copyreg.remove_extension("os", "mkdir", EXTENSION)
    copyreg.clear_extension_cache()


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("route", ROUTES)
def test_nothing_in_a_file_runs(tmp_path, monkeypatch, write_zip, write_legacy, route):
    monkeypatch.syspath_prepend(tmp_path)
    trace = tmp_path / "trace"
    payload = whole(ROUTES[route](trace))
    for path in (write_zip(payload), write_legacy(payload)):
        with contextlib.suppress(ZsemError):
            read_pickle(path)
        assert not trace.exists()
    with contextlib.suppress(Exception):
        Plain(io.BytesIO(payload)).load()
    assert trace.exists(), "the payload does nothing in plain pickle either"
    (trace.rmdir if trace.is_dir() else trace.unlink)()
    # once more, now that the standard library may have kept what it found
    with contextlib.suppress(ZsemError):
        read_pickle(write_zip(payload))
    assert not trace.exists()


@pytest.mark.parametrize("place", range(5))
def test_nothing_runs_in_any_pickle_of_the_legacy_format(tmp_path, write_legacy, place):
    trace = tmp_path / "trace"
    magic = pickle.LONG1 + b"\nl\xfc\x9cF\xf9 j\xa8P\x19"
    result = [magic, number(1001), pickle.EMPTY_DICT, pickle.EMPTY_DICT, pickle.EMPTY_LIST][place]
    path = write_legacy(whole(b"}"), replace={place: whole(result + mkdir(trace) + pickle.POP, 2)})
    with contextlib.suppress(ZsemError):
        read_pickle(path)
    assert not trace.exists()
    with path.open("rb") as file, contextlib.suppress(EOFError):
        while True:
            pickle.load(file)
    assert trace.exists()


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        (("torch._utils", "_rebuild_tensor_v2"), torch._utils._rebuild_tensor_v2),
        (("zsem.interop.allowed", "Stub"), Stub),
        (("zsem.values.codes", "Codes"), Codes),
    ],
)
def test_nothing_that_others_share_changes(write_zip, name, shared):
    payload = whole(built(named(*name), pickle.NONE, dict_of(text("mark"), number(1))))
    with pytest.raises(ZsemError, match="sets the state of"):
        read_pickle(write_zip(payload))
    assert not hasattr(shared, "mark")
    Plain(io.BytesIO(payload)).load()
    assert hasattr(shared, "mark"), "the payload does nothing in plain pickle either"
    del shared.mark


def test_the_environment_does_not_change(write_zip, monkeypatch):
    monkeypatch.delenv("ZSEM_TRACE", raising=False)
    payload = whole(named("os", "environ") + text("ZSEM_TRACE") + text("1") + pickle.SETITEM)
    with pytest.raises(ZsemError, match="sets items of"):
        read_pickle(write_zip(payload))
    assert "ZSEM_TRACE" not in os.environ
    Plain(io.BytesIO(payload)).load()
    assert os.environ.pop("ZSEM_TRACE") == "1"


STORAGE = (
    tuple_of(text("storage"), named("torch", "FloatStorage"), text("0"), text("cuda:0"), number(3)) + pickle.BINPERSID
)
HOOKS = call(named("collections", "OrderedDict"))


def tensor(offset: bytes, size: bytes, stride: bytes) -> bytes:
    return call(named("torch._utils", "_rebuild_tensor_v2"), STORAGE, offset, size, stride, pickle.NEWFALSE, HOOKS)


def three(write: Callable[..., Path], body: bytes) -> Path:
    return write(whole(body), {"0": np.arange(3, dtype=np.float32).tobytes()})


@pytest.mark.parametrize("form", ["write_zip", "write_legacy"])
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (4,), (1,)),
        (1, (3,), (1,)),
        (0, (2, 2), (2, 1)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (4, (0,), (1,)),
        (0, (2**40,), (1,)),
        (0, (2**40,), (0,)),
        (0, (2**32, 2**32), (0, 0)),
        (2**62, (1,), (1,)),
        (0, (2,), (2**62,)),
        (0, (3,), (1, 1)),
    ],
)
def test_tensors_stay_within_their_storage(request, form, offset, size, stride):
    write = request.getfixturevalue(form)
    body = tensor(number(0), tuple_of(number(3)), tuple_of(number(1)))
    assert read_pickle(three(write, body)).content.tolist() == [0, 1, 2]
    body = tensor(number(offset), tuple_of(*map(number, size)), tuple_of(*map(number, stride)))
    with pytest.raises(ZsemError, match="truncated or damaged"):
        read_pickle(three(write, body))


@pytest.mark.parametrize(
    ("form", "items", "words"),
    [
        ("write_zip", 4, "a storage of 4 numbers in a record of 12 bytes"),
        ("write_zip", 2**61, "a storage of"),
        ("write_zip", -1, "no storage"),
        ("write_legacy", 4, "another size"),
        ("write_legacy", 2**61, "too early"),
        ("write_legacy", -1, "no storage"),
    ],
)
def test_storages_stay_within_the_file(request, form, items, words):
    body = STORAGE.replace(number(3), number(items))
    with pytest.raises(ZsemError, match=words):
        read_pickle(three(request.getfixturevalue(form), body))


@pytest.mark.parametrize(
    "pid",
    [
        text("storage"),
        tuple_of(text("file"), text("/etc/passwd")),
        tuple_of(text("storage"), named("torch", "os"), text("0"), text("cpu"), number(3)),
        tuple_of(text("storage"), named("torch", "FloatStorage"), text("../data.pkl"), text("cpu"), number(3)),
        tuple_of(text("module"), named("torch.nn.parameter", "Parameter"), text("a.py"), text("source")),
    ],
)
def test_other_persistent_ids_are_refused(write_zip, pid):
    with pytest.raises(ZsemError):
        read_pickle(three(write_zip, pid + pickle.BINPERSID))


OBJECTS = call(named("numpy", "dtype"), text("O8"), pickle.NEWFALSE, pickle.NEWTRUE)
FLOATS = call(named("numpy", "dtype"), text("f8"), pickle.NEWFALSE, pickle.NEWTRUE)
EMPTY = call(named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray"), tuple_of(number(0)), raw(b"b"))


def bytes_of(function: bytes, times: int) -> bytes:
    """A list of what `function` makes of a million zeros, the same that often."""
    again = pickle.BINGET + b"\0"
    once = function + again + pickle.TUPLE1 + pickle.REDUCE
    return raw(bytes(2**20)) + pickle.BINPUT + b"\0" + pickle.POP + pickle.EMPTY_LIST + (once + pickle.APPEND) * times


RANGE = call(named("builtins", "range"), number(2**50))
DEEP = pickle.EMPTY_TUPLE + (pickle.DUP + pickle.TUPLE2) * 60
BOMBS = {
    "the hash of a deep key": dict_of(DEEP, pickle.NONE),
    "the hash of a deep item": pickle.MARK + DEEP + pickle.FROZENSET,
    "a very deep key": dict_of(pickle.EMPTY_TUPLE + pickle.TUPLE1 * 10**5, pickle.NONE),
    "as many zeros as a number": call(named("builtins", "bytearray"), number(2**50)),
    "as many bytes as a number": call(named("builtins", "bytes"), number(2**50)),
    "a set of a range": call(named("builtins", "set"), RANGE),
    "a size of a range": call(named("torch", "Size"), RANGE),
    "a list of a range": call(named("builtins", "list"), RANGE),
    "a range of arguments": named("builtins", "set") + RANGE + pickle.REDUCE,
    "the same data many times": bytes_of(named("builtins", "bytearray"), 300),
    "a bytearray of a length alone": pickle.BYTEARRAY8 + struct.pack("<Q", 2**50),
    "numpy's objects": OBJECTS,
    "numpy's objects in an array": built(
        EMPTY, number(1), tuple_of(number(1)), OBJECTS, pickle.NEWFALSE, raw(bytes(8))
    ),
    "a large array of few data": built(EMPTY, number(1), tuple_of(number(9)), FLOATS, pickle.NEWFALSE, raw(bytes(8))),
    "an array of another class": call(named("numpy.core.multiarray", "_reconstruct"), named("numpy", "memmap")),
    "a dtype with fields": built(FLOATS, number(3), text("<"), pickle.NONE, tuple_of(text("a")), pickle.EMPTY_DICT),
    "a dtype that is parsed": call(named("numpy", "dtype"), text("(2,3)f8,i4")),
    "the state of a tensor": built(STORAGE, STORAGE, number(0), tuple_of(number(99)), tuple_of(number(1))),
    "items of a tensor": STORAGE + number(0) + number(1) + pickle.SETITEM,
    "another encoding": call(named("_codecs", "encode"), text("a"), text("zip_codec")),
    "a default that is a function": call(named("collections", "defaultdict"), named("_codecs", "encode")),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_do_not_go_off(write_zip, bomb):
    path = three(write_zip, BOMBS[bomb])
    began = time.process_time()
    with pytest.raises(ZsemError) as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", ["builtins.list", "builtins.int", "torch.Tensor", "torch.nn.parameter.Parameter"])
def test_values_are_not_called(write_zip, name):
    module, _, last = name.rpartition(".")
    with pytest.raises(ZsemError, match=f"calls {last}, "):
        read_pickle(write_zip(whole(call(named(module, last)))))


def test_a_memo_is_as_large_as_what_is_in_it(write_zip):
    body = text("a") + pickle.LONG_BINPUT + b"\xff\xff\xff\xff" + pickle.POP + pickle.LONG_BINGET + b"\xff\xff\xff\xff"
    assert read_pickle(write_zip(whole(body))).content == "a"


def test_a_state_dict_keeps_its_methods(write_zip):
    body = HOOKS + dict_of(text("items"), text("hidden"), text("_metadata"), text("kept")) + pickle.BUILD
    content = read_pickle(write_zip(whole(body))).content
    assert list(content.items()) == []
    assert vars(content) == {"_metadata": "kept"}


def test_stubs_take_everything_and_do_nothing(write_zip):
    kind = named("some.where", "Thing")
    thing = (
        kind + tuple_of(number(1)) + dict_of(text("a"), number(2)) + pickle.NEWOBJ_EX
        + dict_of(text("x"), number(3)) + pickle.BUILD
        + pickle.MARK + number(4) + pickle.APPENDS + number(5) + pickle.APPEND
        + pickle.MARK + number(6) + number(7) + pickle.SETITEMS
        + pickle.MARK + number(8) + pickle.ADDITEMS
    )  # fmt: skip
    called = call(thing, number(9))
    key = dict_of(kind, number(1))
    content, stubs = (read := read_pickle(write_zip(whole(tuple_of(thing, called, key, kind))))).content, read.stubs
    assert stubs == ("some.where.Thing",)
    thing, again, keyed, named_class = content
    assert (thing.args, thing.kwargs, thing.state) == ((1,), {"a": 2}, {"x": 3})
    assert (thing.elements, thing.items) == ([4, 5, 8], {6: 7})
    assert again.args == (9,)
    assert type(thing) is type(again) is named_class
    assert keyed == {named_class: 1}
    assert hash(thing) is not None
    assert repr(thing) == "<stub of some.where.Thing>"


def test_names_are_made_printable(write_zip):
    body = dotted("a\x1b[31mb\n", "c" * 1000)
    (name,) = read_pickle(write_zip(whole(body))).stubs
    assert name.isprintable()
    assert name.startswith("a?[31mb?.ccc")
    assert len(name) == 200
