"""A learner: learns one task after another, predicts, saves and loads."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from lightning_fabric import Fabric
from torch import Tensor

from mcil.data.sampler import derive_seed, generator
from mcil.errors import McilError
from mcil.files import read_tensors, write_tensors
from mcil.memory import Memory, split_by_class
from mcil.methods import GradientMethod, create_method
from mcil.models import InputScaler, Network, class_means, nearest_mean_logits
from mcil.models.closed_form import ClosedFormNet
from mcil.models.inputs import Normalize
from mcil.training import (
    OnEvent,
    TaskData,
    TaskTraining,
    TrainingOptions,
    fit,
    fused_features,
    outputs_in_batches,
    predict_logits,
    stage,
)
from mcil.training.device import make_fabric
from mcil.types import Batch, Modality, Outputs

LEARNER_VERSION = 1
LEARNER_FILE = "learner.safetensors"


class Prediction(NamedTuple):
    """``labels`` (N,) class ids, ``confidence`` (N,) their probability, ``probabilities`` (N,C) over seen classes."""

    labels: Tensor
    confidence: Tensor
    probabilities: Tensor


class Attention(NamedTuple):
    """Where the network looks, mean over channels: ``spatial`` (N,L,S), ``temporal`` (N,L).

    Each sums to 1, or is 0 where a frame or a clip has no token.
    """

    spatial: Tensor
    temporal: Tensor


class Learner:
    """Learns classes task by task with one method, from clips that are already encoded.

    Args:
        method: name of the method, such as "av-cil".
        options: the method's options; what is not given keeps its default.
        memory: most exemplars kept, in clips; ignored by methods without a memory.
        modality: what the network reads.
        training: how each task is trained.
        normalize: "first-task" standardises features by statistics of the first task, "none" leaves them; methods in
            closed form (but `mil-lda`), and those that train inside an encoder, are given them as they are.
        seed: fixes initialisation, batch order and choice of exemplars.
        encoders: what made the features, by modality (as in a store's card); kept with the learner.

    Raises:
        McilError: the method, an option, the modality or the normalisation is unknown.
    """

    def __init__(
        self,
        method: str = "av-cil",
        options: Mapping[str, Any] | None = None,
        *,
        memory: int = 500,
        modality: Modality = "audio-visual",
        training: TrainingOptions | None = None,
        normalize: Normalize = "first-task",
        seed: int = 0,
        encoders: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value, choices in (("modality", modality, Modality), ("normalize", normalize, Normalize)):
            if value not in get_args(choices):
                raise McilError(f"{name} must be one of {', '.join(get_args(choices))}, but it is {value!r}")
        self.method_name = method
        self.method = create_method(method, options)
        self.modality: Modality = modality
        self.training = training or TrainingOptions()
        self.normalize: Normalize = normalize if self.method.standardised else "none"
        self.seed = seed
        self.encoders = dict(encoders or {})
        self.memory = Memory(memory) if self.method.uses_memory else None
        self.class_names: tuple[str, ...] = ()
        self.task_sizes: tuple[int, ...] = ()
        # Both are made when the first task shows the width of the features.
        self.network: Network | ClosedFormNet | None = None
        self.scaler: InputScaler | None = None
        self.token_shape: tuple[int, ...] = ()  # (L, S) of the visual features
        self.sound_shape: tuple[int, ...] = ()  # (T,) of the audio features, () where they are vectors
        self.text_shape: tuple[int, ...] = ()  # (P, ...) of a class's text
        self.class_means: Tensor | None = None  # (C,D) of the exemplars, where they classify

    @cached_property
    def _fabric(self) -> Fabric:
        return make_fabric(self.training)

    @property
    def device(self) -> torch.device:
        """Where the learner computes."""
        return self._fabric.device

    @property
    def parameters(self) -> int:
        """Number of trained parameters; 0 before the first task."""
        return sum(p.numel() for p in self.network.parameters()) if self.network else 0

    def learn(
        self,
        train: Batch,
        class_names: Sequence[str],
        validation: Batch | None = None,
        checkpoint: Path | None = None,
        on_event: OnEvent = lambda event: None,
        text: Tensor | None = None,
    ) -> None:
        """Learn one more task.

        Args:
            train: clips of the new classes, whose labels go on from the classes that are known; a cumulative
                method (the oracle) is given those of all seen classes.
            class_names: names of the new classes, in the order of their labels.
            validation: clips that choose the best epoch: of the new classes under protocol "strict", of all known
                ones under "published" and for a cumulative method.
            checkpoint: file to save progress in and to go on from; deleted by the caller once the task is kept.
            on_event: is told about every epoch.
            text: (n,P,...) of the n new classes, P prompts each, for a method that reads text; see
                :mod:`mcil.data.class_text`.

        Raises:
            McilError: a label or name does not fit, a class has no clips, a modality is missing or of another
                shape than in the first task (a vector or T steps of a sound as there), text is missing where it is
                read, or the memory is too small.
        """
        old, seen = len(self.class_names), len(self.class_names) + len(class_names)
        self._check_names(class_names)
        if self.memory is not None:
            self.memory.quota(seen)  # too small: say it before, not after the training
        text = self._read_text(text, len(class_names))
        train = self._read(train, range(0 if self.method.cumulative else old, seen), "training")
        if validation is not None:
            new_only = self.training.protocol == "strict" and not self.method.cumulative
            validation = self._read(validation, range(old if new_only else 0, seen), "validation", all_classes=False)
        task = len(self.task_sizes)
        sizes = (*self.task_sizes, len(class_names))
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(derive_seed(self.seed, "task", task))
            scaler = self._scaler(train)
            network = self._network(scaler, seen, text).to(self._fabric.device)
            if isinstance(network, ClosedFormNet):
                fit(self._fabric, network, scaler, train, self.training.evaluation_batch_size, task, on_event)
            else:
                self._train(network, scaler, TaskData(train, None, validation, sizes), checkpoint, on_event)
        self.network, self.scaler = network, scaler
        self.class_names, self.task_sizes = (*self.class_names, *class_names), sizes

    def _train(
        self,
        network: Network,
        scaler: InputScaler,
        data: TaskData,
        checkpoint: Path | None,
        on_event: OnEvent,
    ) -> None:
        """Train on one task by gradient descent, and bring the memory up to date."""
        method, memory = self.method, self.memory
        assert isinstance(method, GradientMethod)
        task, seen = len(data.task_sizes) - 1, sum(data.task_sizes)
        if memory is not None:

            def choose(features: Tensor) -> Tensor:
                random = generator(self.seed, "memory", task)
                return memory.choose(data.train.labels, features, seen, method.selector, random)

            data = replace(data, memory=memory.clips if task else None, choose_exemplars=choose)
        batches = derive_seed(self.seed, "batches", task)
        TaskTraining(self._fabric, network, scaler, method, data, self.training, batches, checkpoint, on_event).run()
        if memory is None:
            return
        size = self.training.evaluation_batch_size
        staged = stage(self._fabric, scaler, network, data.train, size)
        new = data.train
        if method.stores_logits:
            new = replace(new, logits=predict_logits(self._fabric, network, staged, size).cpu())
        features = fused_features(self._fabric, network, staged, size)
        memory.update(new, features, seen, method.selector, generator(self.seed, "memory", task))
        if method.nearest_mean:
            exemplars = stage(self._fabric, scaler, network, memory.clips, size)
            features = fused_features(self._fabric, network, exemplars, size)
            self.class_means = class_means(features, exemplars.labels, seen)

    def predict(self, audio: Tensor | None = None, visual: Tensor | None = None) -> Prediction:
        """Classify clips among all classes learnt so far.

        Args:
            audio: (N,D_a) or (N,T,D_a) features as stored.
            visual: (N,L,S,D_v) features as stored. A modality that is left out counts as the mean of the first task.

        Raises:
            McilError: nothing has been learnt, no modality is given that the network reads, or features are of
                another shape than those it learnt from.
        """
        logits = torch.cat([self._logits(part).float().cpu() for part in self._outputs(audio, visual, False)])
        probabilities = logits.softmax(dim=1)
        confidence, labels = probabilities.max(dim=1)
        return Prediction(labels, confidence, probabilities)

    def _logits(self, outputs: Outputs) -> Tensor:
        if self.class_means is None:
            return outputs.logits
        return nearest_mean_logits(outputs.fused.float(), self.class_means.to(outputs.fused.device))

    def attention(self, audio: Tensor, visual: Tensor) -> Attention | None:
        """Return the audio-guided attention over ``visual`` (N,L,S,D_v), or None where the network has none."""
        spatial, temporal = [], []
        for part in self._outputs(audio, visual, True):
            if part.spatial_attention is None or part.temporal_attention is None:
                return None
            spatial.append(part.spatial_attention.float().mean(dim=-1).cpu())
            temporal.append(part.temporal_attention.float().mean(dim=-1).cpu())
        return Attention(torch.cat(spatial), torch.cat(temporal))

    def figures(self, audio: Tensor | None = None, visual: Tensor | None = None) -> dict[str, Any]:
        """Return what the network tells besides predictions, by name; {} where it tells nothing.

        Args:
            audio: (N,D_a) or (N,T,D_a) features as stored, of test clips of all classes learnt so far.
            visual: (N,L,S,D_v) features as stored.

        Returns:
            JSON values; see :meth:`mcil.models.Network.figures`.

        Raises:
            McilError: as :meth:`predict`.
        """
        network, _ = self._learnt()
        if isinstance(network, ClosedFormNet):
            return {}
        with self._fabric.autocast():
            return network.figures(self._staged(audio, visual))

    def save(self, folder: Path | str) -> None:
        """Write the learner, its exemplars included, to ``folder``/learner.safetensors, atomically."""
        network, scaler = self._learnt()
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"scaler.{name}": tensor for name, tensor in scaler.state_dict().items()}
        if self.memory is not None:
            clips = self.memory.clips
            named = {"audio": clips.audio, "visual": clips.visual, "labels": clips.labels, "logits": clips.logits}
            tensors |= {f"memory.{name}": tensor for name, tensor in named.items() if tensor is not None}
        if self.class_means is not None:
            tensors["class_means"] = self.class_means
        metadata = {
            "version": LEARNER_VERSION,
            "method": self.method_name,
            "options": asdict(self.method),
            "memory": self.memory.budget if self.memory else 0,
            "modality": self.modality,
            "training": asdict(self.training),
            "normalize": self.normalize,
            "seed": self.seed,
            "encoders": self.encoders,
            "class_names": self.class_names,
            "task_sizes": self.task_sizes,
            "channels": scaler.channels,
            "token_shape": self.token_shape,
            "sound_shape": self.sound_shape,
            "text_shape": self.text_shape,
        }
        write_tensors(Path(folder) / LEARNER_FILE, tensors, metadata)

    @classmethod
    def load(cls, folder: Path | str, device: str | None = None) -> Learner:
        """Read a learner that :meth:`save` wrote; it predicts the same and learns on.

        Args:
            folder: where it was saved.
            device: where to compute from now on; None keeps what the learner was made with.

        Raises:
            McilError: there is none, it is damaged, or it was written by another version.
        """
        path = Path(folder) / LEARNER_FILE
        tensors, saved = read_tensors(path, "learner")
        if saved.get("version") != LEARNER_VERSION:
            raise McilError(f"{path}: written by another version of mcil ({saved.get('version')}); train it again")
        training = TrainingOptions(**(saved["training"] | ({} if device is None else {"device": device})))
        learner = cls(
            saved["method"],
            saved["options"],
            memory=saved["memory"],
            modality=saved["modality"],
            training=training,
            normalize=saved["normalize"],
            seed=saved["seed"],
            encoders=saved["encoders"],
        )
        learner.class_names, learner.task_sizes = tuple(saved["class_names"]), tuple(saved["task_sizes"])
        learner.token_shape = tuple(saved["token_shape"])
        learner.sound_shape = tuple(saved.get("sound_shape", ()))
        learner.text_shape = tuple(saved.get("text_shape", ()))
        channels = saved["channels"]
        learner.scaler = InputScaler(channels.get("audio"), channels.get("visual"), learner.normalize)
        learner.scaler.load_state_dict(_under(tensors, "scaler"))
        network: Network | ClosedFormNet | None = None
        with torch.random.fork_rng(devices=[]):  # its weights are drawn at random before they are read
            for size, classes in zip(learner.task_sizes, accumulate(learner.task_sizes), strict=True):
                text = torch.zeros(size, *learner.text_shape) if learner.method.uses_text else None
                network = learner._grown(network, channels, classes, text)
        assert network is not None  # a saved learner has learnt a task
        network.load_state_dict(_under(tensors, "network"))
        learner.network = network.eval()
        if learner.memory is not None:
            arrays = _under(tensors, "memory")
            clips = Batch(arrays.get("audio"), arrays.get("visual"), arrays["labels"], arrays.get("logits"))
            learner.memory.classes = split_by_class(clips, len(learner.class_names))
        learner.class_means = tensors.get("class_means")
        return learner

    def _outputs(self, audio: Tensor | None, visual: Tensor | None, need_attention: bool) -> Iterator[Outputs]:
        """Yield the network's outputs for clips as stored, batch after batch."""
        network, _ = self._learnt()
        size = self.training.evaluation_batch_size
        for staged in self._staged(audio, visual):
            yield from outputs_in_batches(self._fabric, network, staged, size, need_attention)

    def _staged(self, audio: Tensor | None, visual: Tensor | None) -> Iterator[Batch]:
        """Yield clips as stored, staged for the network batch after batch."""
        network, scaler = self._learnt()
        given = {name: array for name, array in (("audio", audio), ("visual", visual)) if name in scaler.channels}
        present = [array for array in given.values() if array is not None]
        if not present:
            raise McilError(f"this learner reads {' and '.join(scaler.channels)}; give it at least one of them")
        self._check_shapes(given, len(present[0]), "given")
        network.to(self._fabric.device)
        scaler.to(self._fabric.device)
        size = self.training.evaluation_batch_size
        for start in range(0, max(1, len(present[0])), size):  # no clips are one empty batch
            count = min(size, len(present[0]) - start)
            part = {
                name: self._missing(name, count) if array is None else array[start : start + count]
                for name, array in given.items()
            }
            clips = Batch(part.get("audio"), part.get("visual"), torch.zeros(count, dtype=torch.int64))
            yield stage(self._fabric, scaler, network, clips, size)

    def _missing(self, name: str, count: int) -> Tensor | None:
        """Return what stands for a modality that is not given.

        A network that always reads both gets clips of the first task's mean in every channel, which tell it nothing;
        others know what to do without.
        """
        network, scaler = self._learnt()
        if network.reads_subsets:
            return None
        mean = scaler.get_buffer(f"{name}_mean")
        return mean.expand(count, *self._places(name), -1)

    def _check_names(self, class_names: Sequence[str]) -> None:
        if not class_names:
            raise McilError("a task needs at least one new class")
        names = [*self.class_names, *class_names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise McilError(f"class '{twice[0]}' is named twice; a class is learnt once, under one name")

    def _read(self, clips: Batch, classes: range, what: str, all_classes: bool = True) -> Batch:
        """Return the modalities that the network reads, after checking that the clips fit ``classes``."""
        if ((clips.labels < classes.start) | (clips.labels >= classes.stop)).any():
            raise McilError(f"{what} clips have labels outside {classes.start}..{classes.stop - 1}")
        counts = torch.bincount(clips.labels, minlength=classes.stop).tolist()
        if all_classes and not all(counts[classes.start :]):
            raise McilError(f"class {counts.index(0, classes.start)} has no {what} clips; a class needs at least one")
        audio = None if self.modality == "visual" else clips.audio
        visual = None if self.modality == "audio" else clips.visual
        arrays = {"audio": audio, "visual": visual}
        for name, array in arrays.items():
            if name in self.modality and array is None:
                raise McilError(f"modality '{self.modality}' needs {name}, and the {what} clips have none")
        self._check_shapes(arrays, len(clips), what)
        return Batch(audio, visual, clips.labels)

    def _read_text(self, text: Tensor | None, classes: int) -> Tensor | None:
        """Return the text of new classes after checking it; None for a method that reads none."""
        if not self.method.uses_text:
            return None
        if text is None:
            raise McilError(
                f"method '{self.method_name}' reads text about the classes, and there is none; add it to the store "
                "with 'mcil text STORE', or give it to learn"
            )
        if text.ndim < 3 or len(text) != classes:
            raise McilError(f"the text must be (n,P,...) of the n = {classes} new classes, not {tuple(text.shape)}")
        if self.text_shape and tuple(text.shape[1:]) != self.text_shape:
            raise McilError(
                f"the text has shape {tuple(text.shape[1:])} a class, and this learner learnt from {self.text_shape}; "
                "use the same encoder and prompts, or begin a new learner"
            )
        self.text_shape = tuple(text.shape[1:])
        return text

    def _check_shapes(self, arrays: Mapping[str, Tensor | None], clips: int, what: str) -> None:
        """Refuse features that are not of ``clips`` clips, or not like those of the first task, steps included."""
        for name, array in arrays.items():
            if array is None:
                continue
            form, dimensions = ("(N,D) or (N,T,D)", (2, 3)) if name == "audio" else ("(N,L,S,D)", (4,))
            if array.ndim not in dimensions or len(array) != clips or 0 in array.shape[1:]:
                raise McilError(f"the {what} {name} features must be {form}, N = {clips}, not {tuple(array.shape)}")
            if self.scaler is None:
                continue
            known = (*self._places(name), self.scaler.channels[name])
            if array.shape[1:] != known:
                raise McilError(
                    f"the {what} {name} features have shape {tuple(array.shape[1:])} a clip, and this learner learnt "
                    f"from {known}; encode the clips as it was taught, or begin a new learner"
                )

    def _places(self, name: str) -> tuple[int, ...]:
        """Return (L, S) of pictures; (T,) of sounds, or () where they are vectors."""
        return self.token_shape if name == "visual" else self.sound_shape

    def _scaler(self, train: Batch) -> InputScaler:
        """Return the scaler, which is fitted on the first task and never again."""
        if self.scaler is not None:
            return self.scaler.to(self._fabric.device)
        channels = [None if array is None else array.shape[-1] for array in (train.audio, train.visual)]
        scaler = InputScaler(channels[0], channels[1], self.normalize)
        scaler.fit(train.audio, train.visual)
        if train.visual is not None:
            self.token_shape = tuple(train.visual.shape[1:3])
        if train.audio is not None:
            self.sound_shape = tuple(train.audio.shape[1:-1])
        return scaler.to(self._fabric.device)

    def _network(self, scaler: InputScaler, classes: int, text: Tensor | None) -> Network | ClosedFormNet:
        """Return the network to train: a new one, or a copy of the last one with rows for the new classes."""
        last = None if self.method.cumulative else copy.deepcopy(self.network)
        return self._grown(last, scaler.channels, classes, text)

    def _grown(
        self, network: Network | ClosedFormNet | None, channels: Mapping[str, int], classes: int, text: Tensor | None
    ) -> Network | ClosedFormNet:
        """Return ``network``, or a new one, made to score ``classes`` classes."""
        if text is None:
            if network is None:
                return self.method.network(channels, classes, self.modality)
            network.grow(classes)
            return network
        if network is None:
            network = self.method.network({**channels, "text": text.shape[-1]}, 0, self.modality)
        network.grow(classes, text)
        return network

    def _cuda_devices(self) -> list[torch.device]:
        return [self._fabric.device] if self._fabric.device.type == "cuda" else []

    def _learnt(self) -> tuple[Network | ClosedFormNet, InputScaler]:
        if self.network is None or self.scaler is None:
            raise McilError("this learner has not learnt anything yet; call learn first")
        return self.network, self.scaler


def _under(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``group.``, without that start."""
    return {name.removeprefix(f"{group}."): value for name, value in tensors.items() if name.startswith(f"{group}.")}
