"""How likely a batch of pairs is under a density, jointly or one view given the other."""

from typing import Literal, get_args

from torch import Tensor

from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.errors import ConfigError, unknown_name

__all__ = ["Direction", "conditional_nll", "joint_nll"]

Direction = Literal["target", "context", "both"]


def joint_nll(density: JointGaussianMixture, z_context: Tensor, z_target: Tensor) -> Tensor:
    r"""Mean of :math:`-\log q(z_c, z_t)`.

    A likelihood alone rewards an encoder for shrinking: train densities with it, encoders with :func:`pmi`.

    Args:
        density: The joint mixture.
        z_context: ``(B, d_c)``.
        z_target: ``(B, d_t)``.

    Returns:
        Scalar, nats per pair.

    Raises:
        ShapeError, NonFiniteError: views that do not fit the density or each other.

    Examples:
        >>> import torch
        >>> density = JointGaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], 1)
        >>> joint_nll(density, torch.zeros(3, 1), torch.zeros(3, 1))
        tensor(1.8379)
    """
    return -density.log_prob(z_context, z_target).mean()


def conditional_nll(
    density: JointGaussianMixture, z_context: Tensor, z_target: Tensor, direction: Direction = "target"
) -> Tensor:
    r"""Mean of :math:`-\log q(z_t \mid z_c)`, of :math:`-\log q(z_c \mid z_t)`, or of both.

    Args:
        density: The joint mixture.
        z_context: ``(B, d_c)``.
        z_target: ``(B, d_t)``.
        direction: The view that is predicted: ``target``, ``context``, or ``both`` for the mean of the two.

    Returns:
        Scalar, nats per pair.

    Raises:
        ConfigError: unknown direction.
        ShapeError, NonFiniteError: views that do not fit the density or each other.

    Examples:
        >>> import torch
        >>> density = JointGaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], 1)
        >>> conditional_nll(density, torch.ones(3, 1), torch.zeros(3, 1))
        tensor(0.9189)
    """
    if direction not in get_args(Direction):
        raise ConfigError(unknown_name("direction", direction, get_args(Direction)))
    joint = density.log_prob(z_context, z_target)
    if direction == "target":
        return (density.context.log_prob(z_context) - joint).mean()
    if direction == "context":
        return (density.target.log_prob(z_target) - joint).mean()
    return (0.5 * (density.context.log_prob(z_context) + density.target.log_prob(z_target)) - joint).mean()
