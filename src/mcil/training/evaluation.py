"""Passing clips through a network in batches, without training it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor

from mcil.methods import GradientMethod
from mcil.models import InputScaler, Network
from mcil.models.closed_form import ClosedFormNet
from mcil.types import Batch, Outputs, Teacher, concatenate


@torch.no_grad()
def stage(
    fabric: Fabric, scaler: InputScaler, network: Network | ClosedFormNet, clips: Batch, batch_size: int
) -> Batch:
    """Return the clips as the network reads them, on the device, so that a step only gathers by index.

    Scaling, and what the network computes before anything that is trained, happen here, once a task: neither changes.
    """
    parts = []
    network.eval()
    for indices in torch.split(torch.arange(len(clips)), batch_size) if len(clips) else [torch.arange(0)]:
        part = clips.select(indices).to(fabric.device)
        audio, visual = scaler(part.audio, part.visual)
        if isinstance(network, Network):
            with fabric.autocast():
                audio, visual = network.stem(audio, visual)
        parts.append(Batch(audio, visual, part.labels, part.logits))
    return parts[0] if len(parts) == 1 else concatenate(parts)


def in_batches(clips: Batch, batch_size: int) -> Iterator[Batch]:
    """Yield staged ``clips``, ``batch_size`` at a time, in order."""
    for indices in torch.split(torch.arange(len(clips), device=clips.labels.device), batch_size):
        yield clips.select(indices)


@torch.no_grad()
def outputs_in_batches(
    fabric: Fabric,
    network: Network | ClosedFormNet,
    clips: Batch,
    batch_size: int,
    need_attention: bool = False,
) -> Iterator[Outputs]:
    """Yield the network's outputs for staged ``clips``, ``batch_size`` at a time, in order."""
    network.eval()
    for part in in_batches(clips, batch_size):
        with fabric.autocast():
            yield network(part.audio, part.visual, need_attention=need_attention)


def predict_logits(fabric: Fabric, network: Network, clips: Batch, batch_size: int) -> Tensor:
    """Return float32 logits (N,C) of staged ``clips``."""
    return torch.cat([part.logits.float() for part in outputs_in_batches(fabric, network, clips, batch_size)])


def fused_features(fabric: Fabric, network: Network, clips: Batch, batch_size: int) -> Tensor:
    """Return the float32 features (N,D) that the classifier reads, of staged ``clips``."""
    return torch.cat([part.fused.float() for part in outputs_in_batches(fabric, network, clips, batch_size)])


@torch.no_grad()
def teach(
    fabric: Fabric,
    network: Network,
    method: GradientMethod,
    clips: Batch,
    exemplars: int,
    batch_size: int,
    old_classes: int,
) -> Teacher:
    """Return what the frozen ``network`` says of staged ``clips``, whose last ``exemplars`` come from memory.

    Computed once a task, since neither the clips nor the teacher change while the task is learnt. Attention is that
    of the exemplars only.
    """
    network.eval()
    order = torch.arange(len(clips), device=clips.labels.device)
    new = len(clips) - exemplars
    said: list[Teacher] = []
    for part, attention in ((order[:new], False), (order[new:], method.uses_teacher_attention)):
        for indices in torch.split(part, batch_size) if len(part) else ():
            with fabric.autocast():
                said.append(method.teach(network, clips.select(indices), attention))
    return Teacher(
        torch.cat([part.logits[:, :old_classes].float() for part in said]),
        _join_named([part.features for part in said]),
        _join_named([part.importance for part in said]),
        _join([part.spatial_attention for part in said]),
        _join([part.temporal_attention for part in said]),
    )


def select_teaching(teacher: Teacher, indices: Tensor, exemplars: Tensor) -> Teacher:
    """Return what the teacher said of the clips at ``indices``; its attention on ``exemplars`` (counted among them)."""

    def selected(named: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
        return None if named is None else {name: tensor.index_select(0, indices) for name, tensor in named.items()}

    spatial, temporal = teacher.spatial_attention, teacher.temporal_attention
    return Teacher(
        teacher.logits.index_select(0, indices),
        selected(teacher.features),
        selected(teacher.importance),
        None if spatial is None else spatial.index_select(0, exemplars),
        None if temporal is None else temporal.index_select(0, exemplars),
    )


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _join_named(parts: Sequence[Mapping[str, Tensor] | None]) -> dict[str, Tensor] | None:
    present = [part for part in parts if part is not None]
    return {name: torch.cat([part[name] for part in present]) for name in present[0]} if present else None
