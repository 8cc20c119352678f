"""The project's commands, run as a user would, one after the other."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from unet4d.errors import InputError


def unet4d(*arguments: object) -> float:
    """Print and run `unet4d` with these arguments; return the seconds it took. Raises CalledProcessError when it fails."""
    command = [str(argument) for argument in arguments]
    print(f"\n$ unet4d {' '.join(command)}", flush=True)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "unet4d", *command], check=True)
    return time.perf_counter() - began


def script(main: Callable[[Path], None]) -> None:
    """Run `main` on the folder named on the command line; ends the process with a line and an exit code if that fails."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} DIR")
    try:
        main(Path(sys.argv[1]))
    except InputError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
