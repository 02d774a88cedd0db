"""What every worker process does first."""

from __future__ import annotations

import ctypes

import torch

from raydrop.cluster.resources import Layout, tensor_share

_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
"""Parameters of glibc's ``mallopt``, as its ``malloc.h`` numbers them."""
_NEVER = 2**30
_LARGEST_PORTABLE = 2**25
"""What every 64-bit glibc takes as a threshold for ``mmap``; some refuse more."""


def prepare_process(layout: Layout) -> None:
    """Give this process the threads and the memory of a layout, and let it keep what it frees.

    Args:
        layout: What the worker gets.
    """
    torch.set_num_threads(layout.cpus)
    _keep_freed_memory()
    if 0 < layout.gpus < 1 and torch.cuda.is_available():
        limit_gpu_memory(layout.gpus)


def limit_gpu_memory(gpus: float) -> None:
    """Have torch refuse tensors beyond this process's share of its GPU, as if memory had run out.

    Then a process that asks for too much has its own batches cut, and those of the others that work
    on the same GPU are left whole. Only what torch allocates is limited; see
    :data:`raydrop.cluster.resources.CONTEXT_BYTES`.

    Args:
        gpus: Share of a GPU, less than 1.
    """
    device = torch.cuda.current_device()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(tensor_share(gpus, total), device)


def _keep_freed_memory() -> None:
    """Take the next batch's memory from what the last one left, where the C library is glibc.

    Otherwise glibc gives large buffers back to the system, and each batch waits for fresh pages:
    in a worker that cost a tenth of a small network's gradients.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _NEVER) or mallopt(_MMAP_THRESHOLD, _LARGEST_PORTABLE)
