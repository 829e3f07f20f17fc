"""What a comparison suite is, and what all its runs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mcil.data.scenario import Missing
from mcil.errors import McilError, did_you_mean
from mcil.experiment import Experiment
from mcil.methods import METHODS, create_method
from mcil.models.inputs import Normalize
from mcil.registry import Registry
from mcil.report.comparison import Layout
from mcil.training import TrainingOptions
from mcil.types import Modality

MODALITIES: tuple[Modality, ...] = ("audio", "visual", "audio-visual")


@dataclass(frozen=True)
class Settings:
    """What all runs of a suite share, and what each method has of its own.

    Attributes:
        methods: names of the methods to compare, in the order of the rows.
        memory_sizes: those that the suite ``memory`` compares.
        per_method: for a method's name: ``options``, and any option of training; each may be a value, or a mapping from
            modality to value.

    The others are those of :func:`mcil.run`.
    """

    store: Path
    tasks: int | Sequence[int]
    memory: int
    memory_sizes: Sequence[int]
    modality: Modality
    class_order: Sequence[str] | str | None
    class_seed: int | None
    missing: Missing
    normalize: Normalize
    training: TrainingOptions
    methods: Sequence[str]
    per_method: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        """Find what is misspelt before anything is computed, also of methods that are not compared this time."""
        sizes = list(self.memory_sizes)
        if self.memory < 1 or not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise McilError(
                f"memory {self.memory} and memory_sizes {sizes} must be 1 or more, and each size is compared only once"
            )
        for name, given in self.per_method.items():
            where = f"per_method: {name}"
            if name not in METHODS.names():
                raise McilError(f"{where}: there is no such method.{did_you_mean(name, METHODS.names())}")
            if not isinstance(given, Mapping):
                raise McilError(f"{where}: it must be a mapping of options to values, not {given!r}")
            known = ["options", *(field.name for field in fields(TrainingOptions))]
            for key in given:
                if key not in known:
                    hint = did_you_mean(key, known) or f" It has: {', '.join(known)}"
                    raise McilError(f"{where}: there is no option '{key}'.{hint}")
            for modality in MODALITIES:
                try:
                    self.experiment(name, modality=modality)
                    create_method(name, self._options(name, modality))
                except McilError as error:
                    raise McilError(f"{where}: {error}") from error

    def experiment(
        self,
        method: str,
        label: str | None = None,
        *,
        modality: Modality | None = None,
        memory: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Experiment:
        """Return the experiment of a method with seed 0; what is given counts instead of what all share.

        Args:
            method: its name.
            label: what a table calls it; the method's name.
            modality: what it learns from.
            memory: its exemplars at most.
            options: of the method, on top of its own.
        """
        learnt_from = modality or self.modality
        training = {key: value for key, value in self._own(method, learnt_from).items() if key != "options"}
        return Experiment(
            store=self.store,
            tasks=self.tasks,
            method=method,
            options={**self._options(method, learnt_from), **(options or {})},
            memory=self.memory if memory is None else memory,
            modality=learnt_from,
            class_order=self.class_order,
            class_seed=self.class_seed,
            missing=self.missing,
            normalize=self.normalize,
            training=replace(self.training, **training),
            label=label or method,
            seed=0,
        )

    def _options(self, method: str, modality: Modality) -> Mapping[str, Any]:
        options: Any = self._own(method, modality).get("options", {})
        if not isinstance(options, Mapping):
            raise McilError(f"options must be a mapping of options to values, not {options!r}")
        return options

    def _own(self, method: str, modality: Modality) -> dict[str, Any]:
        """What ``per_method`` says of a method that learns from ``modality``."""
        found: dict[str, Any] = {}
        for key, value in self.per_method.get(method, {}).items():
            by_modality = isinstance(value, Mapping) and bool(set(value) & set(MODALITIES))
            if not by_modality:
                found[key] = value
                continue
            if unknown := [name for name in value if name not in MODALITIES]:
                raise McilError(f"{key}: there is no modality '{unknown[0]}'; choose from {', '.join(MODALITIES)}")
            if modality in value:
                found[key] = value[modality]
        return found


@dataclass(frozen=True)
class Suite:
    """A comparison.

    Attributes:
        name: as on the command line.
        title: of its table and report.
        layout: the columns of its table.
        sections: what its report shows besides, by name (:data:`mcil.report.chapters.SECTIONS`).
        experiments: makes of the settings what is to be compared: one experiment (of seed 0) for each row, or each
            place of a table with several columns. Its ``label`` is the name of the row.
        featured: labels of rows that have a figure to themselves, in its order, each with its name there.
    """

    name: str
    title: str
    layout: Layout
    sections: Sequence[str]
    experiments: Callable[[Settings], list[Experiment]]
    featured: Sequence[tuple[str, str]] = ()

    @property
    def summary(self) -> str:
        """What it is for, in a sentence."""
        return (self.experiments.__doc__ or "").partition("\n")[0]


SUITES: Registry[Suite] = Registry("suite", "mcil.suites")


def suite(
    name: str, title: str, layout: Layout, sections: Sequence[str], featured: Sequence[tuple[str, str]] = ()
) -> Callable[[Callable[[Settings], list[Experiment]]], Suite]:
    """Return a decorator that registers a function from settings to experiments as a suite."""

    def add(experiments: Callable[[Settings], list[Experiment]]) -> Suite:
        return SUITES.register(name)(Suite(name, title, layout, sections, experiments, featured))

    return add
