"""The public names, and what importing them costs."""

import subprocess
import sys

import zsem


def test_every_public_name_is_there():
    assert sorted(zsem._HOME_OF) == sorted(zsem.__all__)
    for name in zsem.__all__:
        assert getattr(zsem, name).__name__ == name
    assert not hasattr(zsem, "no_such_name")


def test_importing_zsem_imports_nothing_heavy():
    program = "import sys, zsem; print([m for m in ('torch', 'numpy', 'sklearn', 'dicebear') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_functions_say_what_they_take():
    for name in zsem.__all__:
        thing = getattr(zsem, name)
        assert thing.__doc__, name
        if isinstance(thing, type):
            for method, value in vars(thing).items():
                if not method.startswith("_") and callable(value) and not isinstance(value, type):
                    assert value.__doc__, f"{name}.{method}"
