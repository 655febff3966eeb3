"""Seeds for code that takes no generator, such as PyTorch's distributions and the start of its layers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]

_CPU = torch.device("cpu")


@contextmanager
def seeded(seed: int, device: torch.device = _CPU) -> Iterator[None]:
    """Seed the global generators of the CPU and of one device for a while, and no other generator.

    Those of the CPU and of a CUDA device are put back afterwards; that of MPS is only seeded.

    Args:
        seed: The seed.
        device: Where the random numbers are drawn; the CPU where missing.

    Examples:
        >>> before = torch.get_rng_state()
        >>> with seeded(0):
        ...     first = torch.randn(3)
        >>> with seeded(0):
        ...     torch.equal(torch.randn(3), first)
        True
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        # torch.manual_seed would seed every device, and fork_rng puts back those only that it is given.
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
