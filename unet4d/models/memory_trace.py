"""Memory and work of a computation, counted without a GPU: bytes of live tensors, and floating-point operations.

Under `FakeTensorMode` nothing is computed and nothing allocated, but every tensor has its shape and its life, so the training step
of a network of any size can be planned on any machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

BLOCK_BYTES = 512
"""The CUDA allocator hands out multiples of this."""

_aten = torch.ops.aten
_MAKE_CONTIGUOUS = {
    _aten.convolution,
    _aten.convolution_backward,
    _aten.native_batch_norm,
    _aten.native_batch_norm_backward,
}
"""These work on a contiguous copy of an input that is not, on the CPU as with cuDNN."""
_CONVOLUTIONS = {_aten.convolution, _aten.convolution_backward}
"""oneDNN and cuDNN may work on copies of their tensors in a layout of their own."""


class _StorageRef(weakref.ref):
    """A weak reference to a storage that knows which one it was and how many bytes were counted for it."""

    __slots__ = ("key", "size_bytes")
    key: int
    size_bytes: int


class MemoryTrace(TorchDispatchMode):
    """Counts the bytes of all tensors alive, and the floating-point operations, of what runs inside it.

    A storage counts from the operation that first returns it until nothing refers to it any more, be it in Python or in autograd.
    Views and in-place operations share one. What was made outside counts from then on, too, unless `hold` had it counted before.
    Not seen is what libraries take inside an operation, and fragmentation. For convolutions it is reckoned: a copy of each of its
    tensors in another layout.

    Entered inside a `FakeTensorMode`, it counts what would be there. On real tensors it gives the same.

    Attributes:
        current_bytes: bytes alive now, each storage rounded up to `BLOCK_BYTES`.
        peak_bytes: the most there were at once.
        working_bytes: the most there were at once with the copies that a convolution may make.
        largest_elements: elements of the largest tensor that an operation returned.
        flops: floating-point operations of convolutions and matrix products so far; a multiplication and an addition are two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current_bytes = self.peak_bytes = self.working_bytes = self.largest_elements = self.flops = 0
        self._alive: dict[int, _StorageRef] = {}

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were made outside, such as weights."""
        for tensor in tensors:
            self._count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count what it returns."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = [item for item in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(item, Tensor)]
        self.hold(results)
        self.largest_elements = max([self.largest_elements, *(tensor.numel() for tensor in results)])
        operation = func._overloadpacket
        if operation in _MAKE_CONTIGUOUS or operation is _aten.sum:
            self.peak_bytes = max(self.peak_bytes, self.current_bytes + _copied_bytes(operation, args))
        if operation in _CONVOLUTIONS:
            tensors = [*results, *(item for item in args if isinstance(item, Tensor))]
            copies_bytes = sum(_rounded(tensor.numel() * tensor.element_size()) for tensor in tensors)
            self.working_bytes = max(self.working_bytes, self.current_bytes + copies_bytes)
        self.working_bytes = max(self.working_bytes, self.peak_bytes)
        if operation in flop_registry:
            self.flops += flop_registry[operation](*args, **kwargs, out_val=out)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)  # torch keeps this Python object for as long as the storage lives
        ref = self._alive.get(key)
        if ref is None:
            ref = self._alive[key] = _StorageRef(storage, self._free)
            ref.key, ref.size_bytes = key, 0
        size_bytes = _rounded(storage.nbytes())
        if size_bytes != ref.size_bytes:
            self.current_bytes += size_bytes - ref.size_bytes
            ref.size_bytes = size_bytes
            self.peak_bytes = max(self.peak_bytes, self.current_bytes)

    def _free(self, ref: _StorageRef) -> None:
        self.current_bytes -= ref.size_bytes
        del self._alive[ref.key]


def _copied_bytes(operation: Any, inputs: Iterable[Any]) -> int:
    """Bytes of the copies of its inputs that an operation makes for itself and frees."""
    tensors = [item for item in inputs if isinstance(item, Tensor)]
    if operation is _aten.sum:  # of truths and of small integers, which are first made int64
        return sum(_rounded(8 * t.numel()) for t in tensors if not t.is_floating_point() and t.dtype != torch.int64)
    return sum(_rounded(t.numel() * t.element_size()) for t in tensors if not t.is_contiguous())


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def peak_bytes(run: Callable[[], object], there: Iterable[Tensor] = ()) -> int:
    """The most bytes that `run` needs at once on top of the tensors that are `there` before."""
    trace = MemoryTrace()
    trace.hold(there)
    before_bytes = trace.current_bytes
    with trace:
        run()
    return trace.peak_bytes - before_bytes
