"""Compile the simulated GPU: `python -m tests.simulated_gpu.build`, in half a minute; needs g++."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).with_name("device.cpp")
NAME = "simulated_gpu_device"
LIBRARY = Path(__file__).parents[2] / "build" / f"{NAME}.so"


def build() -> None:
    """Compile the device, unless the library is newer than its source."""
    if LIBRARY.exists() and LIBRARY.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    from torch.utils import cpp_extension  # only here: who loads the library must do so before torch is imported

    LIBRARY.parent.mkdir(exist_ok=True)
    headers = [f"-isystem{path}" for path in (*cpp_extension.include_paths(), sysconfig.get_path("include"))]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    libraries += [f"-l{name}" for name in ("c10", "torch_cpu", "torch", "torch_python")]
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", f"-DTORCH_EXTENSION_NAME={NAME}"]
    subprocess.run(["g++", *flags, *headers, SOURCE, *libraries, "-o", LIBRARY], check=True)


if __name__ == "__main__":
    build()
    print(LIBRARY)
