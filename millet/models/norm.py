"""Root-mean-square normalisation (Zhang and Sennrich, 2019)."""

from typing import Any

from torch import nn

from millet.kernels import ops


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps)
        self.epsilon = eps

    def forward(self, x: Any) -> Any:
        return ops.rms_norm(x, self.weight, self.epsilon)
