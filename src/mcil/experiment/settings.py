"""What an experiment is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mcil.data.benchmarks import BENCHMARKS
from mcil.data.class_text import read_class_text
from mcil.data.scenario import Missing, Scenario
from mcil.data.store import FeatureStore
from mcil.errors import McilError, did_you_mean
from mcil.learner import Learner
from mcil.methods import METHODS, create_method
from mcil.models.inputs import Normalize
from mcil.training import TrainingOptions
from mcil.training.device import make_fabric
from mcil.types import Modality


@dataclass(frozen=True)
class Experiment:
    """One method on one scenario; see :func:`mcil.run` for what each field means."""

    store: Path
    tasks: int | Sequence[int]
    method: str
    options: Mapping[str, Any]
    memory: int
    modality: Modality
    class_order: Sequence[str] | str | None
    class_seed: int | None
    missing: Missing
    normalize: Normalize
    training: TrainingOptions
    label: str
    seed: int
    _opened: dict[str, FeatureStore] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        # All names, also where the order was called by its name: a run folder says everything by itself.
        object.__setattr__(self, "class_order", read_class_order(self.class_order))

    def open_store(self) -> FeatureStore:
        """Return the store, opened once."""
        return self._opened.setdefault("store", FeatureStore(self.store))

    def scenario(self) -> Scenario:
        """Return the scenario over the store; McilError where the two do not fit."""
        order = read_class_order(self.class_order)
        return Scenario(self.open_store(), self.tasks, order, self.class_seed, self.modality, self.missing)

    def learner(self) -> Learner:
        """Return a learner that has learnt nothing yet; McilError where the method or an option is unknown."""
        return Learner(
            self.method,
            self.options,
            memory=self.memory,
            modality=self.modality,
            training=self.training,
            normalize=self.normalize,
            seed=self.seed,
            encoders=self.open_store().card.get("encoders", {}),
        )

    def check(self) -> None:
        """Find what would stop the run later, before anything is computed.

        Raises:
            McilError: data, method and settings do not fit, or the device is not there.
        """
        learner, scenario = self.learner(), self.scenario()
        if learner.memory is not None:
            learner.memory.quota(len(scenario.class_names))
        if self.training.protocol != "last" and not learner.method.closed_form:
            for task in scenario.tasks:
                if not len(task.val):
                    raise McilError(
                        f"protocol '{self.training.protocol}' chooses the best epoch on validation clips, and task "
                        f"{task.index} ('{task.class_names[0]}' ...) has none; give some, or use protocol 'last'"
                    )
        if learner.method.uses_text:
            text = read_class_text(self.store)
            if text is None:
                raise McilError(
                    f"{self.store}: method '{self.method}' reads text about the classes, and this store has none; add "
                    f"it with 'mcil text {self.store}'"
                )
            text.of(scenario.class_names)
        make_fabric(self.training)

    def config(self) -> dict[str, Any]:
        """Return everything that was chosen, as plain values, and the checksum of the data."""
        values = asdict(replace(self, _opened={}))
        del values["_opened"]
        values["options"] = asdict(create_method(self.method, self.options))  # those left at their defaults too
        plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
        plain["data_checksum"] = self.open_store().checksum
        if METHODS[self.method].uses_text and (text := read_class_text(self.store)) is not None:
            plain["text_checksum"] = text.checksum
        return plain

    @property
    def name(self) -> str:
        """Name of the run folder: readable, and different for every different outcome.

        It holds a hash of the configuration. Where the store stands and how often progress is saved do not count.
        """
        config = self.config()
        del config["store"], config["training"]["checkpoint_seconds"]
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        return f"{self.method}-{self.modality}-seed{self.seed}-{digest[:8]}"


def read_class_order(order: Sequence[str] | str | None) -> list[str] | None:
    """Return the class names that a user means: all of them, or the name of a benchmark that has an order; None.

    Raises:
        McilError: there is no such benchmark.
    """
    if not isinstance(order, str):
        return None if order is None else list(order)
    if order not in BENCHMARKS:
        raise McilError(
            f"there is no class order '{order}'.{did_you_mean(order, BENCHMARKS)} Give all class names as a list, "
            f"or one of: {', '.join(BENCHMARKS)}"
        )
    return list(BENCHMARKS[order].class_order)
