"""Classes that settings name by a dotted path, "package.module.Class".

A dotted path can name any code. So `import_class` is called for a path that the user gave; `find_class` imports nothing. Either
way the class must be a subclass of the one that the setting asks for, before anything of it is called.
"""

from __future__ import annotations

import importlib
import sys
from typing import TypeVar

from unet4d.errors import InputError

T = TypeVar("T")


def find_class(setting: str, path: str, base: type[T]) -> type[T]:
    """Return the class that a setting names; nothing is imported.

    Raises:
        InputError: its module is not imported, or it is no subclass of `base`.
    """
    module, _, name = path.rpartition(".")
    if module not in sys.modules:
        raise InputError(f"got {setting} {path}, expected a class of an imported module; import {module} first")
    found = vars(sys.modules[module]).get(name)  # `getattr` may call a function of the module
    if not (isinstance(found, type) and issubclass(found, base)) or found is base:
        raise InputError(
            f"got {setting} {path}, expected a subclass of {base.__module__}.{base.__qualname__}; its docstring is the interface"
        )
    return found


def import_class(setting: str, path: str | None, base: type) -> None:
    """Import the class that the user named in a setting; None is no class.

    Raises:
        InputError: it cannot be imported, or is no subclass of `base`.
    """
    if path is None:
        return
    module = path.rpartition(".")[0]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"got {setting} {path}, and importing {module} failed ({error}), expected a class that Python finds; add its "
            "folder to PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # a script may parse its own command line, and end
        raise InputError(
            f"got {setting} {path}, and importing {module} failed ({type(error).__name__}: {error}), expected a module that can "
            f"be imported; python -c 'import {module}' shows where it fails"
        ) from error
    find_class(setting, path, base)
