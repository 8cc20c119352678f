"""A counter of a computation's memory and work without a GPU: bytes of live tensors, and floating-point operations.

Under `FakeTensorMode` nothing is computed or allocated, but every tensor has its shape and lifetime. So the training step of a
network of any size can be counted on any machine.
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
"""Operations that copy an input that is not contiguous, on the CPU as with cuDNN."""
_CONVOLUTIONS = {_aten.convolution, _aten.convolution_backward}
"""Operations for which oneDNN and cuDNN may copy all tensors to another layout."""


class _StorageRef(weakref.ref[Any]):
    """A weak reference to a storage, with its key and the bytes that were counted for it."""

    __slots__ = ("key", "size_bytes")
    key: int
    size_bytes: int


class MemoryTrace(TorchDispatchMode):
    """Counter of the bytes of all live tensors, and of the floating-point operations, of the code that runs inside it.

    A storage counts from the operation that first returns it until Python and autograd drop it. Views and in-place operations share
    one. Tensors from outside count from their first use, or from `hold`. Memory that libraries allocate inside an operation is not
    seen, nor fragmentation; for convolutions a copy of each tensor is assumed.

    It gives the same on fake and on real tensors.

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
        """Count tensors that were created outside, such as weights."""
        for tensor in tensors:
            self._count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count its results."""
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
    """Return the bytes of the temporary copies that an operation makes of its inputs."""
    tensors = [item for item in inputs if isinstance(item, Tensor)]
    if operation is _aten.sum:  # booleans and small integers are first converted to int64
        return sum(_rounded(8 * t.numel()) for t in tensors if not t.is_floating_point() and t.dtype != torch.int64)
    return sum(_rounded(t.numel() * t.element_size()) for t in tensors if not t.is_contiguous())


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def peak_bytes(run: Callable[[], object], there: Iterable[Tensor] = ()) -> int:
    """Return the most bytes that `run` needs at once, besides the tensors that are `there` before."""
    trace = MemoryTrace()
    trace.hold(there)
    before_bytes = trace.current_bytes
    with trace:
        run()
    return trace.peak_bytes - before_bytes
