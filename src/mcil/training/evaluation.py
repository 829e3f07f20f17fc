"""Passing clips through a network in batches, without training it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor

from mcil.models import AudioVisualNet, InputScaler
from mcil.types import Batch, Outputs, Teacher


def stage(fabric: Fabric, scaler: InputScaler, clips: Batch) -> Batch:
    """Return the clips as the network reads them, on the device, so that a step only gathers by index.

    Scaling happens here, once a task: features carry no augmentation, and the scaler does not change.
    """
    clips = clips.to(fabric.device)
    audio, visual = scaler(clips.audio, clips.visual)
    return Batch(audio, visual, clips.labels)


@torch.no_grad()
def outputs_in_batches(
    fabric: Fabric, network: AudioVisualNet, clips: Batch, batch_size: int, need_attention: bool = False
) -> Iterator[Outputs]:
    """Yield the network's outputs for staged ``clips``, ``batch_size`` at a time, in order."""
    network.eval()
    for indices in torch.split(torch.arange(len(clips), device=clips.labels.device), batch_size):
        part = clips.select(indices)
        with fabric.autocast():
            yield network(part.audio, part.visual, need_attention=need_attention)


def predict_logits(fabric: Fabric, network: AudioVisualNet, clips: Batch, batch_size: int) -> Tensor:
    """Return float32 logits (N,C) of staged ``clips``."""
    return torch.cat([part.logits.float() for part in outputs_in_batches(fabric, network, clips, batch_size)])


def teach(
    fabric: Fabric, network: AudioVisualNet, clips: Batch, exemplars: int, batch_size: int, attention: bool
) -> Teacher:
    """Return what the frozen ``network`` says of staged ``clips``, whose last ``exemplars`` come from memory.

    Computed once a task, since neither the clips nor the teacher change while the task is learnt.
    """
    if not (attention and exemplars):
        return Teacher(predict_logits(fabric, network, clips, batch_size))
    new = clips.select(torch.arange(len(clips) - exemplars, device=clips.labels.device))
    old = clips.select(torch.arange(len(clips) - exemplars, len(clips), device=clips.labels.device))
    parts = list(outputs_in_batches(fabric, network, old, batch_size, need_attention=True))
    logits = torch.cat([predict_logits(fabric, network, new, batch_size), *(part.logits.float() for part in parts)])
    spatial = [part.spatial_attention for part in parts if part.spatial_attention is not None]
    temporal = [part.temporal_attention for part in parts if part.temporal_attention is not None]
    if not spatial:
        return Teacher(logits)
    return Teacher(logits, torch.cat(spatial), torch.cat(temporal))


def select_teaching(teacher: Teacher, indices: Tensor, exemplars: Tensor) -> Teacher:
    """Return the teacher's logits at ``indices`` and its attention on ``exemplars`` (counted among exemplars)."""
    if teacher.spatial_attention is None or teacher.temporal_attention is None:
        return Teacher(teacher.logits.index_select(0, indices))
    return Teacher(
        teacher.logits.index_select(0, indices),
        teacher.spatial_attention.index_select(0, exemplars),
        teacher.temporal_attention.index_select(0, exemplars),
    )
