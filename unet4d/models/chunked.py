"""A clip cut into pieces of frames, between which the ConvLSTMs' states are handed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from unet4d.models.clstm_unet import CLSTMUNet, DropoutFactors, LevelStates, NetworkState

Lengths = tuple[int, ...]
"""Frames of a piece, then of the pieces it is cut into in turn; empty for what is computed at once."""
Result = TypeVar("Result")


class ChunkedRecurrence:
    """Takes the states through the pieces of a clip, so that each piece starts from what the frames around it left.

        forward                      bidirectional
        0 1 | 2 3 | 4 5              0 1 | 2 3 | 4 5
        --> s --> s -->                  s <-- s <--      first the backward cells alone,
                                     --> s --> s -->      then the forward cells, with what is wanted of each piece on the way

    Args:
        network: whose states.
    """

    def __init__(self, network: CLSTMUNet):
        self.network = network

    def through(
        self,
        image: Tensor,
        start: NetworkState,
        lengths: Lengths,
        compute: Callable[[slice, NetworkState], tuple[Result, NetworkState]],
        kept: DropoutFactors | None = None,
    ) -> tuple[list[Result], NetworkState]:
        """Compute something of each piece, in the order of the frames.

        Args:
            image: (B, T, C, X, Y, Z).
            start: what the cells start from, forward ones at the first frame, backward ones at the last.
            lengths: how the frames are cut, at least once.
            compute: from the frames of a piece and its state to a result and the state after them.
            kept: channels kept by dropout.

        Returns:
            The results, and the state after the last piece; of a bidirectional network only the last layer's forward cell's counts.
        """
        first, results, carried = self._first(), [], start
        starts = self._starts(image, start, first, kept, lengths)
        for here, begin in zip(split_frames(image.shape[1], lengths[0]), starts, strict=True):
            state = [begin[cell] if cell in first else carried[cell] for cell in range(len(start))]
            result, carried = compute(here, state)
            results.append(result)
        return results, carried

    def round(self, image: Tensor, lengths: Lengths) -> NetworkState:
        """What every cell carries after all frames of `image` (B, T, C, X, Y, Z) from a cold start: what primes a loop."""
        cold: NetworkState = [None] * self.network.cells
        if self.network.directions == 1:
            return self.through(image, cold, lengths, lambda here, state: (None, self.after(image[:, here], state)))[1]
        return [self._ended(image, cold, cell, None, lengths) for cell in range(self.network.cells)]

    def after(self, image: Tensor, start: NetworkState, kept: DropoutFactors | None = None) -> NetworkState:
        """The state after a piece of which nothing else is wanted."""
        return self.network.ended(image, start, self.network.cells - self.network.directions, kept)

    def _first(self) -> list[int]:
        """The cells that must have passed all pieces before anything else is computed of one, in the order they can.

        A layer sees both directions of the one below, so of a bidirectional network only the last forward cell can wait.
        """
        return [] if self.network.directions == 1 else [cell ^ 1 for cell in range(self.network.cells - 1)]

    def _starts(
        self, image: Tensor, start: NetworkState, cells: Sequence[int], kept: DropoutFactors | None, lengths: Lengths
    ) -> list[NetworkState]:
        """For each piece, what the `cells` start from there; they are the first ones of `_first`."""
        pieces = split_frames(image.shape[1], lengths[0])
        starts: list[NetworkState] = [[None] * len(start) for _ in pieces]
        for cell in cells:
            state, order = start[cell], self._order(cell, len(pieces))
            for piece in order:
                starts[piece][cell] = state
                if piece != order[-1]:
                    state = recompute(self._ended, image[:, pieces[piece]], starts[piece], cell, kept, lengths[1:])
        return starts

    def _ended(
        self, image: Tensor, start: NetworkState, cell: int, kept: DropoutFactors | None, lengths: Lengths
    ) -> LevelStates | None:
        """What a cell carries after these frames."""
        if not lengths or image.shape[1] <= lengths[0]:
            return self.network.ended(image, start, cell, kept)[cell]
        pieces, first = split_frames(image.shape[1], lengths[0]), self._first()
        below = first[: first.index(cell)] if cell in first else first
        starts, state = self._starts(image, start, below, kept, lengths), start[cell]
        for piece in self._order(cell, len(pieces)):
            starts[piece][cell] = state
            state = recompute(self._ended, image[:, pieces[piece]], starts[piece], cell, kept, lengths[1:])
        return state

    def _order(self, cell: int, pieces: int) -> list[int]:
        """The pieces in the order this cell passes them."""
        backward = self.network.directions == 2 and cell % 2 == 1
        return list(reversed(range(pieces))) if backward else list(range(pieces))


def split_frames(frames: int, length: int) -> list[slice]:
    """Cut frames into pieces of a length; the last may be shorter."""
    return [slice(first, min(first + length, frames)) for first in range(0, frames, length)]


def recompute(run: Callable[..., Any], *inputs: Any) -> Any:
    """Run now and, in the backward pass, again, keeping the inputs alone. No random number is drawn inside.

    The tensors among the inputs are handed over one by one: a checkpoint around this one can only let go of those it sees.
    """
    if not torch.is_grad_enabled():
        return run(*inputs)
    leaves, shape = tree_flatten(inputs)

    def unpacked(*given: Any) -> Any:
        return run(*tree_unflatten(given, shape))

    return checkpoint(unpacked, *leaves, use_reentrant=False, preserve_rng_state=False)
