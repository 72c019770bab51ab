"""A model under training: its trained parameters, the log-probabilities that losses are made of, and saving.

    trainee = Trainee(model, LoraConfig(rank=16))
    loss = -torch.cat(trainee.logprobs(sequences, first)).mean()

Sequences go through the network packed, each seeing only itself. What several begin with is computed once (in exact
mode, the whole cache blocks of it): a system message, a prompt and its replies up to where they part.

A quantised base stays as it is: the native kernels compute with it, and only an adapter learns.

Shape legend: T rows of the packed batch, N rows with a target, D model width, V vocabulary.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from millet.errors import BadRequest
from millet.kernels.block_cache import BLOCK_SIZE
from millet.kernels.eager import Eager, EagerAttention, Native
from millet.kernels.heap import keep_freed
from millet.kernels.segments import SegmentAttention
from millet.models.adapter import PREFIX, SUFFIX_A, SUFFIX_B, Adapter
from millet.models.catalog import catalog
from millet.models.load import restore_base
from millet.models.lora import LoRALinear
from millet.models.model import Model
from millet.models.network import Network
from millet.models.weights import LAYER, unfilled
from millet.train import devices, sharding
from millet.train.lora import LoraConfig, attach, continue_from
from millet.train.loss import Head, target_logprobs
from millet.train.prefixes import Ids, in_common


class Trainee:
    """Takes the model over: its network stays plain (an engine on it computes with copies), or quantised, and carries
    the adapter.

    lora: train an adapter on frozen weights; without it, all weights learn. A model that is itself base and adapter
    goes on with that adapter. checkpointing: keep only what goes into each layer, and compute the rest again in
    backward. exact: compute log-probabilities with the native kernels, in the bits of an exact engine: a third slower
    with fp32 weights; with quantised ones always so, as it is also the fastest way.

    Where several processes train together, each keeps a part of all weights that learn. But they are whole in every
    process where little would be saved or parts cannot be had: of an adapter, with `exact`, whose kernels compute
    outside of PyTorch's modules, and with experts, of which a process's tokens may leave some without a gradient.
    """

    def __init__(
        self, model: Model, lora: LoraConfig | None = None, checkpointing: bool = False, exact: bool = False
    ) -> None:
        if model.quantised and lora is None:
            raise BadRequest(
                f"{model.name} has quantised weights, which cannot learn; give it an adapter, or load it with "
                "dtype='float32'"
            )
        if exact and not model.native:
            raise BadRequest("exact needs the native kernels and fp32 on a CPU; leave it out")
        self.model = model
        self._exact = exact or model.quantised
        self._lora = lora
        with model.layout:
            if not model.quantised:
                model.network.unpack()
            model.network.train()
            model.network.checkpointing = checkpointing
            self._adapted = self._with_adapter(lora) if lora else {}
        if not lora:
            for name, parameter in model.network.named_parameters():
                parameter.requires_grad_(self._learns(name))
        self._sharded = devices.count() > 1 and not (lora or exact or model.config.moe)
        self._whole: Network | None = None
        if self._sharded:
            sharding.shard(model.network)
        self.parameters: dict[str, nn.Parameter] = dict(self._named())
        """The trained ones: by Hugging Face's names, or an adapter's by PEFT's."""
        keep_freed()

    def logprobs(
        self, sequences: Sequence[Ids], first: Sequence[int] | None = None, temperature: float = 1.0
    ) -> list[Tensor]:
        """Log-probability of every token from index first[i] (at least 1; by default 1) on, differentiable.

        fp32 [max(0, len(ids) - first[i])] per sequence. The first tokens are computed only as far as others need them.
        temperature: logits are divided by it, as where tokens are drawn.
        """
        counts, batch = self._batch(sequences, [1] * len(sequences) if first is None else first)
        if batch is None:
            return [torch.empty(0, device=self.model.device) for _ in sequences]
        hidden_ND, exact = self._hidden(batch)
        if temperature != 1:
            hidden_ND = hidden_ND / temperature  # logits are linear in it
        targets_N = torch.tensor(batch.targets, device=self.model.device)
        head = self.model.network.vocabulary.head.packed_at(0) or self.head
        return list(target_logprobs(hidden_ND, head, targets_N, exact)[batch.places].split(counts))

    def hidden(self, sequences: Sequence[Ids], first: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What the head computes logits from for every token from index first[i] (at least 1) on, differentiable, and
        those tokens. [N, D] and int64 [N], the sequences' one after the other"""
        _, batch = self._batch(sequences, first)
        if batch is None:
            raise BadRequest("there is no token to learn from; give some")
        targets_N = torch.tensor(batch.targets, device=self.model.device)
        return self._hidden(batch)[0][batch.places], targets_N[batch.places]

    @property
    def head(self) -> Tensor:
        """The weight that makes logits of hidden states; a copy where it is quantised. [V, D]"""
        group = self.model.network.vocabulary.head
        matrix, plain_VD = group.packed_at(0), group.modules[0].weight
        weight_VD: Tensor = plain_VD if matrix is None else matrix.unpack()
        return weight_VD

    def merged(self) -> Model:
        """For inference: a network of its own, each adapted weight summed. What has no adapter is shared with it.

        Raises BadRequest where the base is quantised: a sum would not be.
        """
        if self.model.quantised:
            raise BadRequest(f"{self.model.name} has quantised weights, which nothing can be added to; keep them apart")
        network = unfilled(self.model.config).eval()
        tensors = dict(self.model.network.named_parameters())
        for name, _ in list(network.named_parameters()):
            owner, _, attribute = name.rpartition(".")
            adapted = self._adapted.get(owner)
            values = tensors[name] if adapted is None else adapted.weight
            wanted = nn.Parameter(values.detach(), requires_grad=self._learns(name))
            setattr(network.get_submodule(owner), attribute, wanted)
        return replace(self.model, network=network, adapter=None, layout=threading.RLock())

    def whole(self) -> Model:
        """The model for an engine: the trainee's own, or where weights are sharded a copy with the weights of now, the
        same one in each call. All processes have to ask together."""
        if not self._sharded:
            return self.model
        if self._whole is None:
            self._whole = unfilled(self.model.config).train()  # so that an engine leaves its weights plain
            self._whole.to_empty(device=self.model.device).to(self.model.dtype).requires_grad_(False)
        with torch.no_grad():
            for name, own in self.model.network.named_parameters():
                self._whole.get_parameter(name).copy_(sharding.whole(own))
        return replace(self.model, network=self._whole, layout=threading.RLock())

    def save(self, directory: str | Path) -> None:
        """Write a Hugging Face directory, or a PEFT directory with an adapter: all of it or nothing. Of several
        processes the first writes, and all have to call this together."""
        model = self.whole()
        if not devices.first():
            return None
        if self._lora is None:
            return model.save(directory)
        modules = {name: module.factors for name, module in self._adapted.items()}
        Adapter(self._base, modules).write(directory, self._lora.rank, self._lora.alpha)
        return None

    @property
    def _base(self) -> str:
        """What an adapter's directory names as its base."""
        model = self.model
        if model.adapter is not None:
            return model.adapter.base
        return model.name if model.name in catalog() else str(model.path.absolute())

    def _with_adapter(self, lora: LoraConfig) -> dict[str, LoRALinear]:
        network, known = self.model.network, self.model.adapter
        if known is not None and not self.model.quantised:
            restore_base(network, known)
        adapted = attach(network, lora)
        if known is not None:
            continue_from(adapted, known, lora)
        return adapted

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        if not self._adapted:
            yield from ((n, p) for n, p in self.model.network.named_parameters() if p.requires_grad)
        for name, module in self._adapted.items():
            yield f"{PREFIX}{name}{SUFFIX_A}", module.lora_A
            yield f"{PREFIX}{name}{SUFFIX_B}", module.lora_B

    def _learns(self, name: str) -> bool:
        """Neither the bias that balances experts nor modules for multi-token prediction have a part in the loss."""
        layer = LAYER.match(name)
        predicts_further = layer is not None and int(layer[1]) >= self.model.config.num_layers
        return not (predicts_further or name.endswith("e_score_correction_bias"))

    def _batch(self, sequences: Sequence[Ids], first: Sequence[int]) -> tuple[list[int], _Batch | None]:
        """How many targets each sequence has, and all of them packed; None where there are none."""
        for ids, start in zip(sequences, first, strict=True):
            self.model.check(ids)
            if start < 1:
                raise BadRequest(f"first is {start}; the first token follows nothing, so it must be at least 1")
        counts = [max(0, len(ids) - start) for ids, start in zip(sequences, first, strict=True)]
        whole = [(ids, start) for ids, start, n in zip(sequences, first, counts, strict=True) if n]
        return counts, _pack(whole, unit=BLOCK_SIZE if self._exact else 1) if whole else None

    def _hidden(self, batch: _Batch) -> tuple[Tensor, Head | None]:
        """The rows that have a target, one for each that differs [N, D]; and in exact mode how the engine computes
        their logits."""
        network, device = self.model.network, self.model.device
        ids_T, rows_N = torch.tensor(batch.ids, device=device), torch.tensor(batch.rows, device=device)
        if self._sharded:
            sharding.release(network)
        if not self._exact:
            return network(ids_T, SegmentAttention(batch.lengths, batch.parents, device))[rows_N], None
        eager = Eager(ids_T, batch.lengths, batch.parents)
        hidden_TD = network(eager.ids, EagerAttention(eager, self.model.cache_dtype)).tensor

        def logits(hidden_ND: Tensor) -> Tensor:
            logits_NV: Tensor = network.head(Native(eager, hidden_ND)).tensor
            return logits_NV

        return hidden_TD[rows_N], logits


@dataclass
class _Batch:
    """Sequences laid end to end as segments: `parents[i]` is the segment that segment i continues. Row `rows[n]` has
    to say how likely `targets[n]` is. places: of all sequences' targets in order, which n each is."""

    ids: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    parents: list[int | None] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def add(self, ids: Ids, parent: int | None = None) -> range:
        """A segment; returns its rows."""
        start = len(self.ids)
        self.ids += ids
        self.lengths.append(len(ids))
        self.parents.append(parent)
        return range(start, len(self.ids))

    def ask(self, rows: Ids, targets: Ids) -> None:
        """Have these rows say how likely these tokens are; what was asked before is not computed again."""
        for pair in zip(rows, targets, strict=True):
            place = self._asked.setdefault(pair, len(self.rows))
            if place == len(self.rows):
                self.rows.append(pair[0])
                self.targets.append(pair[1])
            self.places.append(place)

    _asked: dict[tuple[int, int], int] = field(default_factory=dict)


def _pack(sequences: Sequence[tuple[Ids, int]], unit: int) -> _Batch:
    """Each sequence with the index of its first target. The last token of each is only a target. Of what several begin
    with, as many tokens are computed once as are a multiple of `unit`; and one that only begins as another does needs
    no rows of its own."""
    batch = _Batch()
    inputs = [tuple(ids[:-1]) for ids, _ in sequences]
    longest: list[tuple[int, ...]] = []
    for each in sorted(set(inputs), reverse=True):
        if not longest or longest[-1][: len(each)] != each:  # behind what begins so, nothing else comes before it
            longest.append(each)
    longest.reverse()
    rows: dict[tuple[int, ...], list[int]] = {each: [] for each in longest}
    _lay(batch, longest, rows, unit)
    for (ids, start), own in zip(sequences, inputs, strict=True):
        batch.ask(rows[longest[bisect_left(longest, own)]][start - 1 : len(own)], ids[start:])
    return batch


def _lay(
    batch: _Batch,
    inputs: list[tuple[int, ...]],
    rows: dict[tuple[int, ...], list[int]],
    unit: int,
    done: int = 0,
    parent: int | None = None,
) -> None:
    """Sorted ones, none of which another begins with; their first `done` tokens are the same, and laid already."""
    alone = len(inputs) == 1
    shared = len(inputs[0]) if alone else max(done, in_common(inputs) // unit * unit)
    if shared > done:
        own = batch.add(inputs[0][done:shared], parent)
        parent = len(batch.lengths) - 1
        for each in inputs:
            rows[each] += own
    if not alone:  # short stretches are not worth a segment
        for _, part in groupby(inputs, lambda each: each[shared : shared + BLOCK_SIZE]):
            _lay(batch, list(part), rows, unit, shared, parent)
