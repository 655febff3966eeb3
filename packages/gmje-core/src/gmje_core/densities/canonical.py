r"""Axes in which a linear Gaussian channel acts on each coordinate alone, whatever the scales of its two covariances.

Of :math:`c \sim N(\mu_c, \alpha C)` and :math:`t \mid c \sim N(\mu_t + G (c - \mu_c), \beta S)` they give the
marginal of :math:`t` and the conditional of :math:`c` for every :math:`\alpha` and :math:`\beta`, by one factorisation.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from gmje_core.densities.covariance.framed import FramedCovariance
from gmje_core.linalg import accumulation_dtype

__all__ = ["CanonicalAxes"]


@dataclass(frozen=True, eq=False)
class CanonicalAxes:
    r"""Canonical axes of ``K`` channels with :math:`C = L_c L_c^\top` and :math:`S = L_s L_s^\top`.

    With the singular values of :math:`L_s^{-1} G L_c = P\, \mathrm{diag}(s)\, Q^\top`, the channel in the coordinates
    :math:`(L_c Q)^{-1} (c - \mu_c)` and :math:`(L_s P)^{-1} (t - \mu_t)` multiplies by :math:`s` and adds independent
    noise. The canonical correlations at scales 1 are :math:`s / \sqrt{1 + s^2}`.

    Attributes:
        context: ``(K, d_c, d_c)``, the axes :math:`L_c Q` of the context as columns.
        target: ``(K, d_t, d_t)``, the axes :math:`L_s P` of the target.
        strengths: ``(K, min(d_c, d_t))`` singular values :math:`s`, not negative. Axes that have none are cut off from
            the other view.

    Examples:
        >>> eye, one = torch.eye(2)[None], torch.ones(1)
        >>> axes = CanonicalAxes.of_channel(eye, 3 * eye, 2 * eye)
        >>> axes.strengths
        tensor([[1.5000, 1.5000]])
        >>> axes.target_covariance(one, one).diagonal()  # 3 * 3 + 2 * 2
        tensor([[13., 13.]])
        >>> axes.context_covariance(one, torch.tensor([1.0, 9.0])).diagonal()  # the more noise, the less is learned
        tensor([[0.3077, 0.3077],
                [0.8000, 0.8000]])
    """

    context: Tensor
    target: Tensor
    strengths: Tensor

    @classmethod
    def of_channel(cls, context_tril: Tensor, gain: Tensor, target_tril: Tensor) -> Self:
        """Axes of these channels, found in float64 where the device has it; they carry no gradient.

        A derivative of singular vectors has no value where two singular values are equal, as they are for a gain of
        zero.

        Args:
            context_tril: ``(K, d_c, d_c)`` lower-triangular factors of the contexts' covariances.
            gain: ``(K, d_t, d_c)``, of any rank.
            target_tril: ``(K, d_t, d_t)`` lower-triangular factors of the noise's covariances.
        """
        precise = accumulation_dtype(gain)
        context, channel, noise = (part.detach().to(precise) for part in (context_tril, gain, target_tril))
        whitened = torch.linalg.solve_triangular(noise, channel @ context, upper=False)
        left, strengths, right = torch.linalg.svd(whitened, full_matrices=True)
        return cls(*(part.to(gain.dtype) for part in (context @ right.mT, noise @ left, strengths)))

    def target_covariance(self, context_scales: Tensor, target_scales: Tensor) -> FramedCovariance:
        r"""Marginal covariances :math:`\alpha_a G C G^\top + \beta_b S` of the targets.

        Args:
            context_scales: ``(A,)`` positive :math:`\alpha_a`.
            target_scales: ``(B,)`` positive :math:`\beta_b`.

        Returns:
            Covariance of ``K * A * B`` components, the scales of the targets last.
        """
        signal, noise = self._powers(context_scales, target_scales, self.target.shape[-1])
        return FramedCovariance(self.target, (signal + noise).flatten(1, 2), validate=False)

    def context_covariance(self, context_scales: Tensor, target_scales: Tensor) -> FramedCovariance:
        r"""Covariances of the contexts given a target, :math:`\alpha \beta / (\alpha s^2 + \beta)` along each axis.

        Arguments and components are those of :meth:`target_covariance`.
        """
        signal, noise = self._powers(context_scales, target_scales, self.context.shape[-1])
        variances = context_scales[:, None, None] * (noise / (signal + noise))
        return FramedCovariance(self.context, variances.flatten(1, 2), validate=False)

    def context_shift(self, residual: Tensor, context_scales: Tensor, target_scales: Tensor) -> Tensor:
        r"""How far targets move the means of contexts, :math:`\alpha s / (\alpha s^2 + \beta)` along each axis.

        Args:
            residual: ``(N, K, d_t)``, :math:`t - \mu_t`.
            context_scales: ``(A,)``.
            target_scales: ``(B,)``.

        Returns:
            ``(N, K * A * B, d_c)``; twice this size is held for a moment.
        """
        count = self.strengths.shape[-1]
        signal, noise = self._powers(context_scales, target_scales, count)
        gain = context_scales[:, None, None] * self.strengths[:, None, None] / (signal + noise)
        inverse = torch.linalg.inv_ex(self.target.to(accumulation_dtype(self.target))).inverse.to(residual.dtype)
        seen = residual.transpose(0, 1) @ inverse[:, :count].mT  # (K, N, count)
        moved = gain.flatten(1, 2).unsqueeze(1) * seen.unsqueeze(2)  # (K, N, A * B, count)
        shift: Tensor = moved.flatten(1, 2) @ self.context[..., :count].mT
        return shift.view(*moved.shape[:3], self.context.shape[-1]).transpose(0, 1).flatten(1, 2)

    def _powers(self, context_scales: Tensor, target_scales: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        r"""Variances :math:`\alpha s^2` ``(K, A, B, dim)`` and :math:`\beta` ``(B, 1)`` of the target's coordinates."""
        squares = F.pad(self.strengths.square(), (0, dim - self.strengths.shape[-1]))
        signal = context_scales[:, None, None] * squares[:, None, None]
        return signal.expand(-1, -1, len(target_scales), -1), target_scales[:, None]
