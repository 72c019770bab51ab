"""Root-mean-square normalisation (Zhang and Sennrich, 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension.

    In fp32 as three passes over the data: at one row PyTorch's own is made of seven, and starting them is all it costs.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * (length.square() / self.width + self.eps).rsqrt() * self.weight
