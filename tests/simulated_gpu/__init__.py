"""A simulated GPU: torch's "cuda" on a machine that has none, with the CPU's kernels, to find faults that only a GPU shows.

    make simulated                        # the tests that are marked gpu
    python -m tests.simulated_gpu.build                                    # once; then any command of the package on it:
    SIMULATED_GPU_GB=24 python -m tests.simulated_gpu train --dataset hearts --out run

As on a GPU: an operation on tensors of both devices fails, and so does reading a GPU's tensor from the host. Memory is counted,
its peak too; it is out beyond SIMULATED_GPU_GB. While `torch.cuda.set_sync_debug_mode("error")` is on, what would wait for the
GPU fails. Autocast, the scaler of gradients and autograd's threads are those of a GPU.

Not as on a GPU: speed, rounding, cuDNN and its memory, the gaps between blocks of memory, and streams: all is done in order.
"""
