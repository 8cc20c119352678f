"""unet4d on the simulated GPU: `python -m tests.simulated_gpu train --dataset hearts --out run`."""

import tests.simulated_gpu.plugin  # noqa: F401  # before torch
from unet4d.cli.main import main

if __name__ == "__main__":
    main()
