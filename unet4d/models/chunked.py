"""Recurrence over chunks of frames, between which only states are passed on, and recomputation of chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from unet4d.models.clstm_unet import CLSTMUNet, DropoutFactors, LevelStates, NetworkState, limit_priming

Lengths = tuple[int, ...]
"""Frames of a chunk, then of the chunks that it is split into in turn; empty for frames that are computed at once."""
Result = TypeVar("Result")


class ChunkedRecurrence:
    """A network's states passed through the chunks of a clip, so that each chunk starts as if the clip were computed at once.

    forward                      bidirectional
    0 1 | 2 3 | 4 5              0 1 | 2 3 | 4 5
    --> s --> s -->                  s <-- s <--      first the backward cells alone,
                                 --> s --> s -->      then the forward cells, and the result of each chunk
    """

    def __init__(self, network: CLSTMUNet):
        self.network = network

    def run_chunks(
        self,
        image: Tensor,
        start: NetworkState,
        lengths: Lengths,
        compute: Callable[[slice, NetworkState], tuple[Result, NetworkState]],
        dropout: DropoutFactors | None = None,
    ) -> tuple[list[Result], NetworkState]:
        """Compute a result of each chunk, in the order of the frames.

        Args:
            image: (B, T, C, X, Y, Z).
            start: what the cells start from, forward ones at the first frame, backward ones at the last.
            lengths: how the frames are split, at least once.
            compute: from the frames of a chunk and its state to a result and the state after them.
            dropout: factors of the channels.

        Returns:
            The results, and the state after the last chunk; of a bidirectional network only the last layer's forward cell is valid.
        """
        first, results, carried = self._first_indices(), [], start
        starts = self._starts(image, start, first, dropout, lengths)
        for chunk, begin in zip(split_frames(image.shape[1], lengths[0]), starts, strict=True):
            state = [begin[index] if index in first else carried[index] for index in range(len(start))]
            result, carried = compute(chunk, state)
            results.append(result)
        return results, carried

    def prime(self, image: Tensor, lengths: Lengths, priming_frames: int | None = None) -> NetworkState:
        """Return the state of every cell that a cyclic `image` (B, T, C, X, Y, Z) begins with; see `CLSTMUNet.step`.

        `TemporalBlock.prime` computes the same at once. Their oracle is
        test_frames_computed_in_chunks_are_those_computed_at_once of tests/inference/test_sliding_window.py.
        """
        zeros: NetworkState = [None] * self.network.num_cells
        primed = limit_priming(image.shape[1], priming_frames)
        if not primed:
            return zeros
        first, image = image[:, :primed], image[:, image.shape[1] - primed :]
        if self.network.num_directions == 1:
            run = self.run_chunks(image, zeros, lengths, lambda chunk, state: (None, self.skip(image[:, chunk], state)))
            return run[1]
        return [
            self._final_level_states((image, first)[index % 2], zeros, index, None, lengths)
            for index in range(self.network.num_cells)
        ]

    def skip(self, image: Tensor, start: NetworkState, dropout: DropoutFactors | None = None) -> NetworkState:
        """Return the state after a chunk from which nothing else is needed."""
        return self.network.final_network_state(image, start, self._last_forward_index(), dropout)

    def _last_forward_index(self) -> int:
        """Return the index of the last layer's forward cell."""
        return self.network.num_cells - self.network.num_directions

    def _first_indices(self) -> list[int]:
        """Return the indices of the cells that must pass all chunks before any result is computed, in a possible order.

        A layer sees both directions of the one below, so of a bidirectional network only the last forward cell can wait.
        """
        if self.network.num_directions == 1:
            return []
        return [_other_direction(index) for index in range(self.network.num_cells - 1)]

    def _starts(
        self,
        image: Tensor,
        start: NetworkState,
        indices: Sequence[int],
        dropout: DropoutFactors | None,
        lengths: Lengths,
    ) -> list[NetworkState]:
        """Return what the cells of these indices, the first ones of `_first_indices`, start from in each chunk."""
        chunks = split_frames(image.shape[1], lengths[0])
        starts: list[NetworkState] = [[None] * len(start) for _ in chunks]
        for index in indices:
            self._pass_on(image, starts, start[index], index, dropout, lengths, last=False)
        return starts

    def _final_level_states(
        self, image: Tensor, start: NetworkState, index: int, dropout: DropoutFactors | None, lengths: Lengths
    ) -> LevelStates | None:
        """Return the states of one cell at every level after these frames."""
        if not lengths or image.shape[1] <= lengths[0]:
            return self.network.final_network_state(image, start, index, dropout)[index]
        first = self._first_indices()
        below = first[: first.index(index)] if index in first else first
        starts = self._starts(image, start, below, dropout, lengths)
        return self._pass_on(image, starts, start[index], index, dropout, lengths, last=True)

    def _pass_on(
        self,
        image: Tensor,
        starts: list[NetworkState],
        state: LevelStates | None,
        index: int,
        dropout: DropoutFactors | None,
        lengths: Lengths,
        last: bool,
    ) -> LevelStates | None:
        """Write into `starts` what a cell starts from in each chunk; return its state after the last one if `last`."""
        chunks = split_frames(image.shape[1], lengths[0])
        backward = self.network.num_directions == 2 and index % 2 == 1
        order = range(len(chunks))[:: -1 if backward else 1]
        for number in order:
            starts[number][index] = state
            if last or number != order[-1]:
                clip = image[:, chunks[number]]
                state = recompute(self._final_level_states, clip, starts[number], index, dropout, lengths[1:])
        return state


def _other_direction(index: int) -> int:
    """Return the index of the cell of the same layer and the other direction, in a bidirectional `NetworkState`."""
    return index + 1 if index % 2 == 0 else index - 1


def split_frames(frames: int, length: int) -> list[slice]:
    """Split frames into chunks of a length; the last may be shorter."""
    return [slice(first, min(first + length, frames)) for first in range(0, frames, length)]


def recompute(run: Callable[..., Any], *inputs: Any) -> Any:
    """Run now and, in the backward pass, again; only the inputs are kept. No random number may be drawn inside.

    Tensors among the inputs are passed one by one, because an outer checkpoint can only free those that it sees.
    """
    if not torch.is_grad_enabled():
        return run(*inputs)
    leaves, shape = tree_flatten(inputs)

    def run_unflattened(*given: Any) -> Any:
        return run(*tree_unflatten(given, shape))

    return checkpoint(run_unflattened, *leaves, use_reentrant=False, preserve_rng_state=False)
