"""Mixtures of adapters: small networks beside the layers of a frozen tower, chosen by a router that each task has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcil.encoders.tower import Adapt

# What a router's noise is at least, as in the noisy top-k gating of Shazeer et al., ICLR 2017.
_LEAST_NOISE = 0.01
# Spread of a new router's weights: small, so that it begins without preferences, but not zero, so that it can learn.
_ROUTER_SPREAD = 0.01


class Adapter(nn.Module):
    """A bottleneck: scale * up(dropout(relu(down(x)))). It begins as zero, so that the tower begins as it was.

    Args:
        width: of the tokens.
        bottleneck: of what is between the two linear layers.
        dropout: chance that a number in the bottleneck is dropped, in training.
        scale: of what it adds.
    """

    def __init__(self, width: int, bottleneck: int = 64, dropout: float = 0.1, scale: float = 0.1) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.dropout, self.scale = dropout, scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what is added to tokens (...,D)."""
        hidden = F.dropout(torch.relu(self.down(tokens)), self.dropout, self.training)
        added: Tensor = self.scale * self.up(hidden)
        return added


class Mixture(nn.Module):
    """The experts and routers of one place in a tower.

    A task brings ``experts`` new adapters and a router of its own over all adapters there are. For each clip the
    router picks the ``top_k`` with the greatest scores, and what they add is weighted by the softmax of these scores.
    In training noise of a learnt size is added to the scores. After a task its router is frozen, and so is each
    expert that it picked for any of the task's clips. It picks no others from then on: what a task computes never
    changes later. An expert that was never picked stays free for the next task. Source: Yu et al., "Boosting Continual
    Learning of Vision-Language Models via Mixture-of-Experts Adapters", CVPR 2024, with this rule of freezing in the
    place of theirs.

    Args:
        width: D of the tokens.
        experts: that a task brings.
        top_k: experts that are active for a clip; with one alone the router would get no gradient.
        noisy: whether noise is added in training.
        bottleneck, dropout, scale: of an adapter.
    """

    frozen: Tensor
    allowed: Tensor
    load: Tensor

    def __init__(
        self,
        width: int,
        experts: int = 4,
        top_k: int = 2,
        noisy: bool = True,
        bottleneck: int = 64,
        dropout: float = 0.1,
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= experts:
            raise ValueError(f"top_k must be between 1 and the {experts} experts of a task, not {top_k}")
        self.width, self.new_experts, self.top_k, self.noisy = width, experts, top_k, noisy
        self.bottleneck, self.dropout, self.scale = bottleneck, dropout, scale
        self.experts = nn.ModuleList()
        self.routers = nn.ParameterList()
        self.noises = nn.ParameterList()
        self.register_buffer("frozen", torch.zeros(0, dtype=torch.bool))
        self.register_buffer("allowed", torch.zeros(0, 0, dtype=torch.bool))  # (T,N): what a task's router may pick
        self.register_buffer("load", torch.zeros(0, 0))

    def grow(self) -> None:
        """Begin a task: add its experts and its router, and let only these and the experts that are free be trained."""
        device = self.frozen.device
        for _ in range(self.new_experts):
            self.experts.append(Adapter(self.width, self.bottleneck, self.dropout, self.scale).to(device))
        count = len(self.experts)
        self.routers.append(nn.Parameter((_ROUTER_SPREAD * torch.randn(self.width, count)).to(device)))
        self.noises.append(nn.Parameter(torch.zeros(self.width, count, device=device)))
        self.frozen = F.pad(self.frozen, (0, self.new_experts))
        self.allowed = F.pad(self.allowed, (0, self.new_experts, 0, 1))
        self.allowed[-1] = True
        self.load = F.pad(self.load, (0, self.new_experts, 0, 1))
        for expert, frozen in zip(self.experts, self.frozen.tolist(), strict=True):
            expert.requires_grad_(not frozen)
        for group in (self.routers, self.noises):
            for task, parameter in enumerate(group):
                parameter.requires_grad_(task == len(group) - 1)

    def gates(self, summary: Tensor, task: int) -> Tensor:
        """Return the weights (B,N) of the N experts that ``task`` knows, by ``summary`` (B,D); rows sum to 1."""
        scores = summary @ self.routers[task]
        if self.training and self.noisy:
            size = F.softplus(summary @ self.noises[task]) + _LEAST_NOISE
            scores = scores + size * torch.randn_like(scores)
        scores = scores.masked_fill(~self.allowed[task, : scores.shape[1]], -torch.inf)
        best, picked = scores.topk(self.top_k, dim=1)
        weights = best.softmax(dim=1)  # float32 where autocast widens it
        return torch.zeros_like(scores, dtype=weights.dtype).scatter(1, picked, weights)

    def forward(self, tokens: Tensor, summary: Tensor, task: int) -> Tensor:
        """Return what experts add to ``tokens`` (B,T,D), picked by ``summary`` (B,D) with the router of ``task``."""
        gates = self.gates(summary, task)
        experts = list(enumerate(self.experts[: gates.shape[1]]))
        if tokens.device.type != "cpu":  # to ask a GPU which clips picked an expert would make the host wait
            added = torch.zeros_like(tokens)
            for number, expert in experts:
                added = added + gates[:, number, None, None] * expert(tokens)
            return added
        clips = [gates[:, number].nonzero().flatten() for number, _ in experts]
        parts = [
            gates[rows, number, None, None] * expert(tokens[rows])
            for (number, expert), rows in zip(experts, clips, strict=True)
            if len(rows)
        ]
        return torch.zeros_like(tokens, dtype=parts[0].dtype).index_add(0, torch.cat(clips), torch.cat(parts))

    @torch.no_grad()
    def count(self, summary: Tensor) -> None:
        """Note which experts the last task's router picks for clips with ``summary`` (B,D), without noise."""
        self.load[-1] += (self.gates(summary, len(self.routers) - 1) > 0).sum(dim=0)

    def freeze(self) -> None:
        """End a task: freeze each expert that was counted, and let the task's router pick no other. They stay so."""
        self.allowed[-1] = self.load[-1] > 0
        self.frozen |= self.allowed[-1]

    def shares(self) -> list[float]:
        """Return which share of the last task's picks each expert got; equal shares are perfect balance."""
        picks = self.load[-1]
        shares: list[float] = (picks / picks.sum().clamp_min(1)).tolist()
        return shares


class TowerAdapters(nn.Module):
    """A mixture for each of the upper places of a tower (MIFE).

    Args:
        widths: of the tower's tokens, by place.
        first: the first place that has a mixture.
        options: of each mixture.
    """

    def __init__(self, widths: Sequence[int], first: int = 0, **options: Any) -> None:
        super().__init__()
        self.first = first
        self.places = nn.ModuleList(Mixture(width, **options) for width in widths[first:])

    @property
    def mixtures(self) -> list[Mixture]:
        """From the first place upwards."""
        return [place for place in self.places if isinstance(place, Mixture)]

    def grow(self) -> None:
        """Begin a task."""
        for mixture in self.mixtures:
            mixture.grow()

    def freeze(self) -> None:
        """End a task."""
        for mixture in self.mixtures:
            mixture.freeze()

    def of(self, task: int, count: bool = False) -> Adapt:
        """Return what adapts a tower with the routers of ``task``; with ``count``, the experts picked are counted."""

        def adapt(place: int, tokens: Tensor, summary: Tensor) -> Tensor:
            mixture = self.mixtures[place - self.first]
            if count:
                mixture.count(summary)
            added: Tensor = mixture(tokens, summary, task)
            return added

        return adapt

    def shares(self) -> list[list[float]]:
        """Return :meth:`Mixture.shares` of each place."""
        return [mixture.shares() for mixture in self.mixtures]
