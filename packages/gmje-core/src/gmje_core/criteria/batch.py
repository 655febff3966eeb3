"""The share that the batch's own pairs have in the density that an encoder is scored by."""

from gmje_core.checks import check_share
from gmje_core.errors import ConfigError

__all__ = ["share_of_batch"]

#: Chosen on a validation part of CIFAR-10's training images.
DEFAULT_SHARE = 0.9


def share_of_batch(context_dim: int, target_dim: int, share: float | None) -> float:
    """The share that was asked for, or the usual one: 0.9, and 0 for views of different sizes.

    Args:
        context_dim: Size ``d_c`` of a context embedding.
        target_dim: Size ``d_t`` of a target embedding.
        share: In ``[0, 1]``; ``None`` for the usual one.

    Raises:
        ConfigError: a share outside ``[0, 1]``, or above 0 where the sizes differ.

    Examples:
        >>> share_of_batch(8, 8, None), share_of_batch(8, 4, None), share_of_batch(8, 8, 0.5)
        (0.9, 0.0, 0.5)
    """
    if share is None:
        return DEFAULT_SHARE if context_dim == target_dim else 0.0
    check_share(batch_share=share)
    if share and context_dim != target_dim:
        raise ConfigError(
            "the pairs of a batch compare the views in one space: batch_share must be 0 for views of sizes "
            f"{(context_dim, target_dim)}, got {share!r}"
        )
    return float(share)
