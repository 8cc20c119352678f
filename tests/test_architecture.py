"""Tests: imports go down the rows of rooms, and the command line imports nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unet4d
from tests.masking import MISSING, MISSING_MODULES

PACKAGE = Path(unet4d.__file__).parent
ROWS = (
    ("system.text",),
    ("errors",),
    ("system",),
    ("config",),
    ("metrics",),
    ("images",),
    ("models",),
    ("datasets",),
    ("phantom",),
    ("pipeline",),
    ("evaluation",),
    ("report",),
    ("inference",),
    ("training",),
    ("planning",),
    ("cli",),
    ("__main__",),
)
"""From the bottom up: a module imports from the rows before its own."""
LEVEL = {room: level for level, rooms in enumerate(ROWS) for room in rooms}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    """Return the room of a file: its folder in the package, or its own name."""
    return room_at(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def room_at(module: str) -> str:
    """Return the room of a module by its dotted name in the package; a module with a level of its own is a room."""
    own = ".".join(module.split(".")[:2])
    return own if own in LEVEL else module.partition(".")[0]


def imports(source: str) -> Iterator[tuple[str, int]]:
    """Yield the rooms that a source imports, anywhere in it, with the line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides where it goes"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "unet4d" and rest not in ("", "__version__"):
                yield room_at(rest), node.lineno


def offences(room: str, source: str) -> list[str]:
    """Return the imports of a source that go up or sideways."""
    return [
        f"line {line}: {room} imports {other}"
        for other, line in imports(source)
        if other != room and not LEVEL.get(other, len(ROWS)) < LEVEL[room]
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_an_import_goes_down(path):
    assert room_of(path) in LEVEL, f"{room_of(path)} has no level yet: give it one in ROWS"
    assert offences(room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("datasets", "from unet4d.training.loss import LabelledFramesLoss"),
        ("metrics", "from unet4d import images"),
        ("evaluation", "def f():\n    from unet4d.inference.predict import predict"),
        ("system.text", "import unet4d.system.files"),
        ("images", "from unet4d import segment"),
    ],
)
def test_the_reader_of_imports_sees_what_it_must(room, source):
    assert offences(room, source)


DIFFERENT = "system/operating_system.py"
"""The one module that knows systems apart."""
ASKING = ("getattr", "hasattr", "import_module", "optional_module")
NOT_EVERYWHERE = (*MISSING_MODULES, *MISSING["os"].split(), *MISSING["signal"].split())


def uses_of_one_system(source: str) -> list[str]:
    """Return the uses of what not every system has: modules, parts of `os` and `signal`, folders of the kernel; and of its name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                used = [alias.name for alias in names if alias.name in (*MISSING_MODULES, "msvcrt", "ctypes.wintypes")]
            case ast.ImportFrom(module=module, names=names):
                used = [
                    f"{module}.{alias.name}" for alias in names if alias.name in MISSING.get(module or "", "").split()
                ]
                used += [str(module)] * (module in (*MISSING_MODULES, "msvcrt"))
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                used = [f"{module}.{name}"] * (name in f"{MISSING.get(module, '')} name".split() * (module in MISSING))
                used += ["sys.platform"] * ((module, name) == ("sys", "platform"))
            case ast.Constant(value=str(text)):
                used = [text] * bool(re.match("/(proc|sys|dev)(/|$)", text))
            case ast.Call(func=function, args=given) if ast.unparse(function).rpartition(".")[2] in ASKING:
                used = [one.value for one in given if isinstance(one, ast.Constant) and one.value in NOT_EVERYWHERE]
            case _:
                continue
        found += [f"line {node.lineno}: {one}" for one in used]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_module_knows_systems_apart(path):
    if path != PACKAGE / DIFFERENT:
        assert uses_of_one_system(path.read_text()) == [], f"ask {DIFFERENT}"


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl",
        "def f():\n    import resource",
        "from resource import getrusage",
        "from os import fork",
        "import os\nos.sched_getaffinity(0)",
        "import signal\nx = -signal.SIGKILL",
        "hasattr(signal, 'pthread_sigmask')",
        "getattr(os, 'O_NONBLOCK', 0)",
        "Path('/proc/self/status')",
        "f'/proc/{number}/stat'",
        "import sys\nif sys.platform == 'win32': pass",
        "os.name == 'nt'",
        "importlib.import_module('fcntl')",
    ],
)
def test_the_reader_of_systems_sees_what_it_must(source):
    assert uses_of_one_system(source)
    assert uses_of_one_system("import os, signal\nos.open(os.devnull, os.O_RDONLY), signal.SIGTERM, '/a/dev'") == []


def test_every_folder_of_modules_is_a_package_and_goes_into_the_wheel():
    assert not [path.parent for path in MODULES if not (path.parent / "__init__.py").is_file()]


def test_the_public_names_are_imported_only_where_they_are_first_used():
    imported = {name for name, _ in imports((PACKAGE / "__init__.py").read_text())}
    assert imported == {"images", "inference", "models", "system"}  # all but system under TYPE_CHECKING
    assert loaded_after("import unet4d") == []


HELP_NEEDS = {
    "attr", "attrs", "cython_runtime", "docstring_parser", "jsonargparse", "tqdm", "typeshed_client", "typing_extensions", "unet4d",
    "yaml",
}  # fmt: skip
"""Packages outside of the standard library that the command line may import before a command is chosen."""


def test_help_imports_few_packages():
    """Each package costs time at every call: a new one here is a decision, see `HELP_NEEDS`."""
    source = "import sys\nbefore = set(sys.modules)\nfrom unet4d.cli.main import run\n"
    source += "assert run(['--help']) == run(['train', '--help']) == run(['--version']) == 0\n"
    source += "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
    source += "print('needs', *sorted(name for name in new - sys.stdlib_module_names if not name.startswith('_')))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=100)
    assert set(done.stdout.splitlines()[-1].split()[1:]) <= HELP_NEEDS


def test_help_waits_for_nothing_heavy():

    source = "from unet4d.cli.main import run\nfrom unet4d.cli import COMMANDS\n"
    source += "assert run(['--help']) == run(['--version']) == 0\n"
    source += "assert [run([name, '--help']) for name in COMMANDS] == [0] * len(COMMANDS)"
    assert loaded_after(source) == []


def test_every_public_name_is_there():
    for name in ("CLSTMUNet", "ConvLSTM3d", "Image4D", "read_image", "write_image", "load_model", "segment"):
        assert callable(getattr(unet4d, name))
        assert name in dir(unet4d)
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        unet4d.segmnt  # noqa: B018


def loaded_after(source: str) -> list[str]:
    """Return the heavy packages that a fresh interpreter has loaded after running this."""
    heavy = ("torch", "monai", "nibabel", "scipy", "matplotlib", "tensorboard", "numpy")
    source += f"\nimport sys\nprint('loaded', *(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=100)
    return done.stdout.splitlines()[-1].split()[1:]
