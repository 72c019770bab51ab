"""DeepSeekMoE: a few of many small experts work on each token, beside shared experts that work on all.

Routing, in fp32 whatever the model's type:

1. s = sigmoid (V3) or softmax (V2) of the router's logits.
2. The choice is made on s + b (V3) or s (V2). Where experts are in groups, only the best groups take part: a group
   counts as the sum of its two best (V3) or as its best (V2).
3. The weights of the chosen are their s, never s + b; optionally normalised to sum 1; then scaled.

b, the correction bias, balances the load without an auxiliary loss: the trainer moves it, no gradient does.
Experts outside the chosen groups are masked with -inf. Zero, as some code has it, is wrong as soon as s + b < 0.

Sources: DeepSeek-V2 (arXiv 2405.04434), section 2.2; DeepSeek-V3 (arXiv 2412.19437), section 2.1.2.

Shape legend: T tokens, D model width, E experts, J experts per token, N = T * J.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from millet.kernels.experts import route_and_run
from millet.kernels.linear import WeightGroup
from millet.models.config import ModelConfig, MoEConfig
from millet.models.transformer import SwiGLU


class Router(nn.Module):
    def __init__(self, width: int, moe: MoEConfig) -> None:
        super().__init__()
        self.moe = moe
        self.weight = nn.Parameter(torch.empty(moe.num_experts, width))  # one row per expert: its centroid
        nn.init.normal_(self.weight, std=width**-0.5)
        if moe.correction_bias:
            # fp32 in every checkpoint, since bf16 would swallow the small steps that balance the load
            bias_E = torch.zeros(moe.num_experts, dtype=torch.float32)
            self.e_score_correction_bias = nn.Parameter(bias_E, requires_grad=False)

    def forward(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (fp32) and indices of the chosen experts, best first. [T, J] each."""
        scores_TE = logits_TE.sigmoid() if self.moe.scoring == "sigmoid" else logits_TE.softmax(-1)
        experts_TJ = self._choose(scores_TE)
        weights_TJ = scores_TE.gather(1, experts_TJ)
        if self.moe.norm_topk_prob:
            weights_TJ = weights_TJ / (weights_TJ.sum(-1, keepdim=True) + 1e-20)
        return weights_TJ * self.moe.routed_scaling_factor, experts_TJ

    def _choose(self, scores_TE: Tensor) -> Tensor:
        moe = self.moe
        if moe.correction_bias:
            scores_TE = scores_TE + self.e_score_correction_bias
        if moe.top_groups < moe.num_groups:
            by_group = scores_TE.unflatten(-1, (moe.num_groups, -1))  # [T, groups, experts of a group]
            group_scores = by_group.topk(2 if moe.correction_bias else 1).values.sum(-1)
            best_groups = group_scores.topk(moe.top_groups).indices
            outside = torch.ones_like(group_scores, dtype=torch.bool).scatter(1, best_groups, False)
            scores_TE = by_group.masked_fill(outside[..., None], float("-inf")).flatten(1)
        return scores_TE.topk(moe.top_k).indices


class MoE(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.moe is not None
        moe, width = config.moe, config.hidden_size
        self.gate = Router(width, moe)
        self.experts = nn.ModuleList(SwiGLU(width, moe.intermediate_size) for _ in range(moe.num_experts))
        self.router = WeightGroup(self, "gate")
        self.shares = moe.num_shared_experts > 0
        if self.shares:
            self.shared_experts = SwiGLU(width, moe.num_shared_experts * moe.intermediate_size, config.mlp_bias)

    def forward(self, x_TD: Any) -> Any:
        y_TD = self._routed(x_TD) if isinstance(x_TD, Tensor) else self._on_rows(x_TD)
        return y_TD + self.shared_experts(x_TD) if self.shares else y_TD

    @property
    def _swiglus(self) -> list[SwiGLU]:
        return [expert for expert in self.experts if isinstance(expert, SwiGLU)]

    def _on_rows(self, x: Any) -> Any:
        moe, bias = self.gate.moe, self.gate.e_score_correction_bias if self.gate.moe.correction_bias else None
        experts = [expert.matrices() for expert in self._swiglus]
        routed = _Routed(self)
        # Packed weights have no plain form to differentiate by.
        names = [] if self.router.packed else [name for name, p in routed.named_parameters() if p.numel()]
        parameters = [routed.get_parameter(name) for name in names]

        def reference(x_TD: Tensor, *values: Tensor) -> Tensor:
            return functional_call(routed, dict(zip(names, values, strict=True)), (x_TD,))

        return route_and_run(x, self.router.matrices()[0], bias, moe, experts, parameters, reference)

    def _routed(self, x_TD: Tensor) -> Tensor:
        """Sorts the (token, choice) pairs by expert, so that each expert runs once and on its own tokens only."""
        weights_TJ, experts_TJ = self.gate(self.router(x_TD.float())[0])
        experts_N = experts_TJ.flatten()
        order_N = experts_N.argsort(stable=True)
        counts = experts_N.bincount(minlength=len(self.experts)).tolist()
        rows_ND = x_TD[order_N // experts_TJ.shape[1]]
        parts = [expert(rows) for expert, rows in zip(self.experts, rows_ND.split(counts), strict=True) if len(rows)]
        # Back in the order of pairs, so that a token's outputs are summed in an order that other tokens cannot change.
        y_TJD = torch.cat(parts)[order_N.argsort()].unflatten(0, experts_TJ.shape)
        return (weights_TJ[..., None] * y_TJD).sum(1).to(x_TD.dtype)


class _Routed(nn.Module):
    """The routed part of a `MoE` by itself, so that its weights can be swapped for the gradient."""

    def __init__(self, moe: MoE) -> None:
        super().__init__()
        self.gate, self.experts = moe.gate, moe.experts
        self.run = moe._routed

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.run(x_TD)
