"""`TemporalBlock`: the interface of a block that couples the frames of a level, and the class that `model.temporal` names.

A checkpoint may come from anywhere. So `import_temporal` is called for a path that the user gave, and `allow_temporal` for one in
a checkpoint: it imports only what the environment variable UNET4D_ALLOW_TEMPORAL names. See system/named_class.py.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from torch import Tensor, nn

from unet4d.errors import InputError
from unet4d.models.scan import Keep
from unet4d.system.named_class import find_class, import_class

SETTING = "model.temporal"
ALLOWED = "UNET4D_ALLOW_TEMPORAL"
"""Environment variable: dotted paths of the classes that checkpoints may name, separated by commas."""
BlockState = Any
"""State of a cell after a frame: a tensor (B, ...) or a tuple of them."""


class TemporalBlock(nn.Module):
    """A block that couples the frames of one level. The ConvLSTM is one; `model.temporal` names another.

    It is built once for each level with `lstm_channels` above 0, as `Block(channels, hidden_channels, kernel_size, num_layers,
    direction)`: the level's channels C, its `lstm_channels`, its kernel (X, Y, Z), `lstm_layers` and `direction`. With direction
    "forward" frame t must not depend on later frames. The network adds the output to the features through a projection that starts
    at zero. So every new network computes what its frame-wise baseline computes.

    A block of `num_cells` above 0 carries states from frame to frame. Then a clip may be computed in chunks, and a forward
    network segments live. Layer 0 comes first, its forward cell before its backward cell, then layer 1. A cell's state after a clip
    depends on its own first state and on the layers below. Without states all frames are computed at once.

    Attributes:
        out_channels: channels of the output; a subclass sets it.
        num_cells: states that are carried, layers times directions; 0: none.
        num_directions: 2 if cells also run backward in time, else 1.
        keep: what training keeps for the backward pass, see `scan`; a block may ignore it.
    """

    out_channels: int
    num_cells: int = 0
    num_directions: int = 1
    keep: Keep = "hidden"

    def forward(self, x: Tensor, state: Any = None, cyclic: bool = False) -> tuple[Tensor, list[BlockState]]:
        """Run over all frames.

        Args:
            x: features (B, T, C, X, Y, Z); any T from 1 on.
            state: a state per cell to start from, None for zeros; or None for zeros in all. Of a cyclic study the network passes
                on what `prime` returns.
            cyclic: the last frame leads into the first; given only to a block without states.

        Returns:
            Output (B, T, `out_channels`, X, Y, Z), and the state of each cell after its last frame.
        """
        raise NotImplementedError

    def final_cell_state(self, x: Tensor, state: Any, index: int) -> BlockState:
        """Return the state of one cell after `x`; a subclass may compute it without the cells that it does not need."""
        return self(x, state)[1][index]

    def prime(self, x: Tensor, frames: int) -> list[BlockState]:
        """Return the states to begin a loop `x` with: of forward cells after its last frames, of backward cells after its first.

        Each runs over 1 to T frames from a state of zeros; over T it is a whole cycle.
        """
        first, last = x[:, :frames], x[:, x.shape[1] - frames :]
        if self.num_directions == 1 or frames == x.shape[1]:
            return self(last)[1]
        return [self.final_cell_state((last, first)[index % 2], None, index) for index in range(self.num_cells)]


def temporal_class(path: str) -> type[TemporalBlock]:
    """Return the class of a dotted path, as `find_class`."""
    return find_class(SETTING, path, TemporalBlock)


def import_temporal(path: str | None) -> None:
    """Import the class that the user named as `model.temporal`, as `import_class`; None is the ConvLSTM."""
    import_class(SETTING, path, TemporalBlock)


def allow_temporal(path: str | None, source: object) -> None:
    """Import the class that a checkpoint, `source`, names, where the user allows it; a module that is imported is allowed.

    Raises:
        InputError: it is not allowed; names the variable that allows it. Or as `import_temporal`.
    """
    if path is None:
        return
    allowed = [name.strip() for name in os.environ.get(ALLOWED, "").split(",")]
    if path in allowed:
        import_temporal(path)
    elif path.rpartition(".")[0] not in sys.modules:
        raise InputError(
            f"{source} names code of yours, model.temporal {path}, expected a class that you allow; if you trust it, set "
            f"{ALLOWED}={path}"
        )
    else:
        temporal_class(path)
