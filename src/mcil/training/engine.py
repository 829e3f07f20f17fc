"""Learning one task by gradient descent: epochs, steps, model selection, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from mcil.data.sampler import generator, joint_batches, paired_batches
from mcil.errors import McilError
from mcil.files import read_tensors, write_tensors
from mcil.methods import GradientMethod
from mcil.models import InputScaler, Network, class_means, nearest_mean_logits
from mcil.training.evaluation import fused_features, in_batches, predict_logits, select_teaching, stage, teach
from mcil.training.interrupt import Interrupted, interrupt_requested
from mcil.training.options import TrainingOptions
from mcil.types import Batch, Step, Teacher, concatenate

CHECKPOINT_VERSION = 1

OnEvent = Callable[[dict[str, Any]], None]
"""Is told what happened, as a JSON object, after every epoch."""


ChooseExemplars = Callable[[Tensor], Tensor]
"""Given fused features (N,D) of the task's training clips, says which clips the memory would keep: indices into the
training clips followed by the memory's."""


@dataclass(frozen=True)
class TaskData:
    """Clips as they are stored: the task's own, the memory's, and those that choose the best epoch.

    ``choose_exemplars`` is None for a method without a memory.
    """

    train: Batch
    memory: Batch | None
    validation: Batch | None
    task_sizes: tuple[int, ...]
    choose_exemplars: ChooseExemplars | None = None


@dataclass
class _Place:
    """Where training stands: ``step`` steps of ``epoch`` are done."""

    epoch: int = 0
    step: int = 0
    best_accuracy: float = -1.0
    best_epoch: int = -1


class TaskTraining:
    """Trains ``network`` on one task, from the start or from a checkpoint.

    Args:
        fabric: device and precision.
        network: is changed in place; as the previous task left it, but its classifier already has a row for every
            seen class.
        scaler: fitted input scaler.
        method: gives the losses.
        data: clips of the task.
        options: how to train.
        seed: fixes the order of batches.
        checkpoint: file to keep the state in; None keeps none.
        on_event: is told about every epoch.

    Raises:
        McilError: the protocol needs validation clips and there are none, or the checkpoint is damaged or
            belongs to another task.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: Network,
        scaler: InputScaler,
        method: GradientMethod,
        data: TaskData,
        options: TrainingOptions,
        seed: int,
        checkpoint: Path | None,
        on_event: OnEvent,
    ) -> None:
        self.fabric, self.method, self.options, self.seed = fabric, method, options, seed
        self.checkpoint, self.on_event, self.task_sizes = checkpoint, on_event, data.task_sizes
        together = [data.train] if data.memory is None else [data.train, data.memory]
        size = options.evaluation_batch_size
        self.clips = stage(fabric, scaler, network, concatenate(together), size)
        self.new = len(data.train)
        self.exemplars = len(self.clips) - self.new
        validation = _validation_clips(data, options)
        self.validation = None if validation is None else stage(fabric, scaler, network, validation, size)
        self.choose_exemplars = data.choose_exemplars
        self.network = network.to(fabric.device)
        network.eval()
        with fabric.autocast():
            network.begin_task(self._new_clips())
        self.teacher = self._prepare() if len(data.task_sizes) > 1 and not method.cumulative else None
        self.place = _Place()
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.trains = bool(trained)
        if self.trains:
            optimizer = method.optimizer(trained, options.learning_rate, options.weight_decay)
            self.module, self.optimizer = fabric.setup(network, optimizer)
        else:  # all that the network has to learn it learnt in earlier tasks
            self.place.epoch = options.epochs
        self.best = _copy(network)
        self.sums: dict[str, Tensor] = {}
        self.saved_at = time.monotonic()

    def run(self) -> None:
        """Train, and leave in the network the weights that the protocol chooses."""
        if self.checkpoint is not None and self.checkpoint.exists():
            self._restore(self.checkpoint)
        with interrupt_requested() as interrupted:
            while self.place.epoch < self.options.epochs:
                self._epoch(interrupted)
            if interrupted():  # during the last validation
                self._save()
                raise Interrupted
        if self.validation is not None:
            self.network.load_state_dict(self.best)
        self.network.eval()
        started = time.monotonic()
        with self.fabric.autocast():
            self.network.end_task(self._new_clips())
        if not self.trains:
            self.on_event(
                {
                    "event": "fit",
                    "task": len(self.task_sizes) - 1,
                    "clips": self.new,
                    "seconds": time.monotonic() - started,
                }
            )

    def _new_clips(self) -> Iterator[Batch]:
        """The task's own clips, batch by batch."""
        new = self.clips.select(torch.arange(self.new, device=self.fabric.device))
        return in_batches(new, self.options.evaluation_batch_size)

    def _prepare(self) -> Teacher | None:
        """Set the classifier's new rows where the method does so, and ask the network what it says so far."""
        size = self.options.evaluation_batch_size
        if self.method.imprints:
            new = self.clips.select(torch.arange(self.new, device=self.fabric.device))
            features = fused_features(self.fabric, self.network, new, size)
            self.method.imprint(self.network, features, new.labels, self.seed)
        if not self.method.uses_teacher:
            return None
        old_classes = sum(self.task_sizes[:-1])
        return teach(self.fabric, self.network, self.method, self.clips, self.exemplars, size, old_classes)

    def _epoch(self, interrupted: Callable[[], bool]) -> None:
        options, place, started = self.options, self.place, time.monotonic()
        batches = self._batches()
        self.module.train()
        for new, exemplars in batches[place.step :]:
            done, total = place.epoch * len(batches) + place.step, options.epochs * len(batches)
            for group in self.optimizer.param_groups:
                group["lr"] = options.learning_rate * self.method.rate(done, total)
            self._step(new, exemplars)
            place.step += 1
            if interrupted():
                self._save()
                raise Interrupted
            if time.monotonic() - self.saved_at >= options.checkpoint_seconds:
                self._save()
        losses = {name: float(total) / len(batches) for name, total in self.sums.items()}
        if not all(map(math.isfinite, losses.values())):
            raise McilError(
                f"the loss is no longer a finite number in epoch {place.epoch} of task {len(self.task_sizes) - 1} "
                f"({losses}); lower the learning rate, or set clip_gradient"
            )
        accuracy = self._validate()
        self.on_event(
            {
                "event": "epoch",
                "task": len(self.task_sizes) - 1,
                "epoch": place.epoch,
                "loss": sum(losses.values()),
                "losses": losses,
                "validation_accuracy": accuracy,
                "seconds": time.monotonic() - started,
            }
        )
        self.sums = {}
        place.epoch, place.step = place.epoch + 1, 0

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        options, epoch = self.options, self.place.epoch
        if self.method.replay == "joint":
            return joint_batches(self.new, self.exemplars, options.batch_size, self.seed, epoch)
        return paired_batches(
            self.new, self.exemplars, options.batch_size, options.exemplar_batch_size, self.seed, epoch
        )

    def _step(self, new: Tensor, exemplars: Tensor) -> None:
        indices = torch.cat([new, exemplars + self.new]).to(self.fabric.device)
        clips = self.clips.select(indices)
        teacher = self.teacher
        if teacher is not None:
            teacher = select_teaching(teacher, indices, exemplars.to(self.fabric.device))
        if self.options.modality_dropout:
            clips = self._drop_modalities(clips)
        outputs = self.module(clips.audio, clips.visual, need_attention=self.method.uses_teacher_attention)
        losses = self.method.losses(Step(outputs, clips.labels, len(exemplars), teacher, self.task_sizes, clips.logits))
        self.optimizer.zero_grad()
        self.fabric.backward(torch.stack(list(losses.values())).sum())
        if self.options.clip_gradient:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.options.clip_gradient)
        self.optimizer.step()
        # Summed on the device: reading a value here would make the host wait for every step.
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(loss)) + loss.detach()

    def _drop_modalities(self, clips: Batch) -> Batch:
        """Take the sound from some clips and the picture from some others: zero is a channel's mean."""
        if clips.audio is None or clips.visual is None:
            return clips
        random = generator(self.seed, "modality dropout", self.place.epoch, self.place.step)
        chance = torch.rand(len(clips), generator=random).to(clips.labels.device)
        lost = self.options.modality_dropout
        audio = _kept(clips.audio, chance >= lost / 2)
        visual = _kept(clips.visual, (chance < lost / 2) | (chance >= lost))
        return replace(clips, audio=audio, visual=visual)

    def _scores(self, clips: Batch) -> Tensor:
        """Return what classifies ``clips``: (N,C), the greatest wins."""
        size = self.options.evaluation_batch_size
        if not self.method.nearest_mean or self.choose_exemplars is None:
            return predict_logits(self.fabric, self.network, clips, size)
        features = fused_features(self.fabric, self.network, self.clips, size)
        kept = self.choose_exemplars(features[: self.new]).to(features.device)
        means = class_means(features[kept], self.clips.labels[kept], sum(self.task_sizes))
        return nearest_mean_logits(fused_features(self.fabric, self.network, clips, size), means)

    def _validate(self) -> float | None:
        """Percent right on the validation clips, and the best network kept; the earlier one wins a tie."""
        if self.validation is None:
            return None
        right = (self._scores(self.validation).argmax(dim=1) == self.validation.labels).float()
        accuracy = 100 * right.mean().item()
        if accuracy > self.place.best_accuracy:
            self.place.best_accuracy, self.place.best_epoch = accuracy, self.place.epoch
            self.best = _copy(self.network)
        return accuracy

    def _save(self) -> None:
        if self.checkpoint is None or not self.trains:
            return
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"sum.{name}": total for name, total in self.sums.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": tensor for name, tensor in state.items()}
        tensors["random"] = torch.get_rng_state()
        if self.fabric.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        write_tensors(self.checkpoint, tensors, {"place": vars(self.place), **self._identity()})
        self.saved_at = time.monotonic()

    def _identity(self) -> dict[str, Any]:
        return {"version": CHECKPOINT_VERSION, "task_sizes": list(self.task_sizes), "seed": self.seed}

    def _restore(self, path: Path) -> None:
        tensors, metadata = read_tensors(path, "checkpoint")
        place = metadata.pop("place", None)
        if metadata != self._identity():
            raise McilError(f"{path}: this checkpoint is of another task or version; delete it to train afresh")
        groups: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "sum": {}, "adam": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            if group in groups:
                groups[group][rest] = tensor
        self.network.load_state_dict(groups["network"])
        self.best, self.place = groups["best"], _Place(**place)
        self.sums = {name: total.to(self.fabric.device) for name, total in groups["sum"].items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["adam"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["random"])
        if self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.fabric.device)


def _validation_clips(data: TaskData, options: TrainingOptions) -> Batch | None:
    """The clips that choose the epoch: those given, and under "strict" the exemplars, which stand for old classes."""
    if options.protocol == "last":
        return None
    # Without clips of the new classes the old ones alone would choose: the epoch that learnt least.
    if data.validation is None or not (data.validation.labels >= sum(data.task_sizes[:-1])).any():
        raise McilError(
            f"protocol '{options.protocol}' chooses the best epoch on validation clips, and there are none of the "
            f"classes of task {len(data.task_sizes) - 1}; give some, or use protocol 'last'"
        )
    exemplars = [data.memory] if data.memory is not None and options.protocol == "strict" else []
    return concatenate([data.validation, *exemplars])


def _kept(clips: Tensor, kept: Tensor) -> Tensor:
    """Return ``clips`` (B,...) with zeros where ``kept`` (B,) says no."""
    return clips * kept.reshape(-1, *[1] * (clips.ndim - 1))


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
