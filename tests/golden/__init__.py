"""Values computed by the published AV-CIL code; see README.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcil.models import AudioVisualNet, ProxyClassifier
from mcil.types import Modality


@dataclass(frozen=True)
class Golden:
    """One step's values by name; ``meta`` holds its settings."""

    meta: dict[str, Any]
    values: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    @property
    def batch(self) -> dict[str, Tensor]:
        """``audio`` (B,D) and ``visual`` (B,L,S,D)."""
        frames, patches, width = (self.meta[key] for key in ("frames", "patches", "dim"))
        return {"audio": self["audio"], "visual": self["visual"].reshape(-1, frames, patches, width)}

    @property
    def old_classes(self) -> int:
        return sum(self.old_task_sizes)

    @property
    def old_task_sizes(self) -> list[int]:
        return [self.meta["classes_per_task"]] * self.meta["step"]

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """The weights of one of the networks: "old", "new", "audio_only", "afc_new", ..."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.values.items() if name.startswith(start)}

    def network(self, prefix: str, modality: Modality = "audio-visual") -> AudioVisualNet:
        weights = self.weights(prefix)
        network = AudioVisualNet(self.meta["dim"], len(weights["classifier.bias"]), modality)
        network.load_state_dict(weights)
        return network

    def afc_network(self, prefix: str) -> AudioVisualNet:
        """Return the network with proxies whose weights are "afc_old" or "afc_new"; here the old proxies may learn."""
        width, proxies = self.meta["dim"], self.meta["afc_proxies"]
        weights = {AFC_NAMES.get(name, name): weight for name, weight in self.weights(prefix).items()}
        classifier = ProxyClassifier(width, len(weights["classifier.old"]) // proxies, proxies)
        classifier.grow(classifier.classes + len(weights["classifier.new"]) // proxies)
        network = AudioVisualNet(width, classifier.classes, classifier=classifier)
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
        classifier.old.requires_grad_()
        return network


# Names of the same weights in this package.
AFC_NAMES = {"classifier.fc1.weight": "classifier.old", "classifier.fc2.weight": "classifier.new"}


def load(step: int) -> Golden:
    """Return the values of step 1 or 2."""
    start = f"step{step}/"
    with np.load(Path(__file__).parent / "avcil.npz", allow_pickle=False) as file:
        values = {name.removeprefix(start): file[name] for name in file.files if name.startswith(start)}
    meta = json.loads(str(values.pop("meta")))
    return Golden(meta, {name: torch.from_numpy(value) for name, value in values.items()})


def assert_matches(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
