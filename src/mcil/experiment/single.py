"""One run: learn every task of a scenario, predict after each, keep what is needed to go on."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from torch import Tensor

from mcil.data.sampler import displaced
from mcil.data.scenario import Scenario
from mcil.errors import McilError
from mcil.experiment import machine
from mcil.experiment.folder import EventLog, RunFolder
from mcil.experiment.settings import Experiment
from mcil.files import read_tensors, write_tensors, write_text
from mcil.learner import Learner, Prediction
from mcil.metrics import SHUFFLED, summary
from mcil.training import OnEvent
from mcil.types import Batch, Rows, Task

ATTENTION_CLIPS = 6


def run_single(experiment: Experiment, folder: RunFolder, on_event: OnEvent) -> dict[str, Any]:
    """Learn all tasks, from where the folder stands, and return the result; a finished run is not run again.

    Args:
        experiment: what to do.
        folder: where to keep it.
        on_event: is told about every epoch and task.

    Raises:
        McilError: the data, the method and the settings do not fit, or a kept file is damaged.
        Interrupted: Ctrl-C; everything is saved.
    """
    scenario = experiment.scenario()
    learner = experiment.learner()
    new = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    with folder.locked():
        if folder.result_file.exists():
            return folder.result()
        write_text(folder.path / "config.yaml", yaml.safe_dump(experiment.config(), sort_keys=False))
        try:
            return _Run(experiment, scenario, learner, folder, on_event).finish()
        except McilError:
            if new and not (folder.path / "checkpoints").exists():  # nothing to go on from
                shutil.rmtree(folder.path)
                for parent in new[1:]:
                    if not any(parent.iterdir()):
                        parent.rmdir()
            raise


class _Run:
    def __init__(
        self, experiment: Experiment, scenario: Scenario, learner: Learner, folder: RunFolder, on_event: OnEvent
    ) -> None:
        self.experiment, self.scenario, self.folder = experiment, scenario, folder
        self.finished = folder.finished_tasks(len(scenario.tasks))
        if folder.learner.is_dir():  # stopped between the last task and its result
            self.finished, self.learner = len(scenario.tasks), Learner.load(folder.learner)
        elif self.finished:
            self.learner = Learner.load(folder.learner_checkpoint(self.finished - 1))
        else:
            self.learner = learner
        self.predictions = folder.read_predictions(self.finished)
        told = folder.read_figures()[: self.finished]
        self.figures = told if len(told) == self.finished else []  # those of all tasks or none
        self.attention = _AttentionRecord(folder.path / "attention.safetensors", scenario, self.finished)
        self.log = EventLog(folder.path / "events.jsonl")
        self.on_event = on_event
        self.told_seconds = 0.0  # by the events of this start

    def finish(self) -> dict[str, Any]:
        try:
            machine.reset_peak_memory(self.learner.device)
            for task in self.scenario.tasks[self.finished :]:
                self._learn(task)
            result = self._result()
        finally:
            self.log.close()
        self.folder.finish(len(self.scenario.tasks) - 1, result)
        return result

    def _note(self, event: dict[str, Any]) -> None:
        self.log.append(event)
        self.told_seconds += event["seconds"]
        self.on_event(event)

    def _learn(self, task: Task) -> None:
        started, told = time.monotonic(), self.told_seconds
        cumulative = self.learner.method.cumulative
        seen = self.scenario.tasks[: task.index + 1]
        train = np.concatenate([t.train for t in seen]) if cumulative else task.train
        old_validation = cumulative or self.experiment.training.protocol == "published"
        validation = np.concatenate([t.val for t in seen]) if old_validation else task.val
        self.learner.learn(
            self.scenario.clips(train),
            task.class_names,
            self.scenario.clips(validation),
            self.folder.training_checkpoint(task.index),
            self._note,
            self.scenario.text(task) if self.learner.method.uses_text else None,
        )
        self._test(task.index, np.concatenate([t.test for t in seen]))
        self.attention.add(self.learner)
        self.folder.write_predictions(pl.concat(self.predictions))
        seconds = time.monotonic() - started - (self.told_seconds - told)
        tested = sum(len(t.test) for t in seen)
        self._note({"event": "task", "task": task.index, "seconds": seconds, "test_clips": tested})
        # Once the learner is kept the task counts as learnt, so everything else of it is written before.
        self.learner.save(self.folder.learner_checkpoint(task.index))
        self.folder.finish_task(task.index)

    def _test(self, after_task: int, rows: Rows) -> None:
        """Predict the test clips with all modalities that the learner reads, with each alone, with each shuffled.

        What the network tells of them besides is kept too.
        """
        clips = self.scenario.clips(rows)
        self._tell(after_task, clips)
        predicted: dict[str, Prediction] = {self.experiment.modality: self.learner.predict(clips.audio, clips.visual)}
        if self.experiment.modality == "audio-visual":
            alone = {
                "audio": self.learner.predict(audio=clips.audio),
                "visual": self.learner.predict(visual=clips.visual),
            }
            predicted |= alone | self._predict_shuffled(after_task, clips)
        ids = self.scenario.store.ids
        frames = [
            pl.DataFrame(
                {
                    "after_task": np.full(len(rows), after_task, dtype=np.int32),
                    "inputs": [inputs] * len(rows),
                    "row": rows,
                    "clip": [ids[row] for row in rows],
                    "label": clips.labels.numpy(),
                    "prediction": said.labels.numpy(),
                    "confidence": said.confidence.numpy(),
                }
            )
            for inputs, said in predicted.items()
        ]
        self.predictions.append(pl.concat(frames))

    def _tell(self, after_task: int, clips: Batch) -> None:
        """Keep what the network tells of the test clips, if it does."""
        figures = self.learner.figures(clips.audio, clips.visual)
        if figures and len(self.figures) == after_task:
            self.figures.append(figures)
            self.folder.write_figures(self.figures)

    def _predict_shuffled(self, after_task: int, clips: Batch) -> dict[str, Prediction]:
        """Predict each picture with the sound of another clip; the permutation depends on the seed and the task only.

        One pass serves for both modalities: such a pair is the picture's clip with a wrong sound, and the sound's clip
        with a wrong picture.
        """
        if len(clips) < 2 or clips.audio is None:
            return {}
        other = displaced(len(clips), self.experiment.seed, "shuffle", after_task)
        pairs = self.learner.predict(clips.audio[other], clips.visual)
        by_sound = other.argsort()
        return {
            f"audio{SHUFFLED}": pairs,
            f"visual{SHUFFLED}": Prediction(*(values[by_sound] for values in pairs)),
        }

    def _result(self) -> dict[str, Any]:
        experiment, scenario, learner = self.experiment, self.scenario, self.learner
        sizes = [len(task.class_names) for task in scenario.tasks]
        splits = {split: sum(len(getattr(t, split)) for t in scenario.tasks) for split in ("train", "val", "test")}
        return {
            "method": experiment.method,
            "label": experiment.label,
            "protocol": experiment.training.protocol,
            "modality": experiment.modality,
            "seed": experiment.seed,
            **summary(pl.concat(self.predictions), sizes, experiment.modality, self.figures),
            "task_sizes": sizes,
            "class_names": list(scenario.class_names),
            "memory": learner.memory.budget if learner.memory else 0,
            "parameters": learner.parameters,
            "seconds": round(self.log.seconds, 3),
            "peak_memory_mb": round(machine.peak_memory_mb(learner.device), 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": machine.versions(),
            "hardware": machine.hardware(learner.device),
            "data": {
                "store": str(experiment.store.absolute()),
                "checksum": scenario.store.checksum,
                "clips": splits,
            },
        }


class _AttentionRecord:
    """Audio-guided attention on a few test clips of the first task after every task, for the report."""

    def __init__(self, path: Path, scenario: Scenario, finished: int) -> None:
        self.path, self.scenario = path, scenario
        self.rows = _clips_to_paint(scenario)
        self.spatial: list[Tensor] = []
        self.temporal: list[Tensor] = []
        if finished and path.exists():
            kept, _ = read_tensors(path, "attention record")
            self.spatial, self.temporal = list(kept["spatial"][:finished]), list(kept["temporal"][:finished])

    def add(self, learner: Learner) -> None:
        if not len(self.rows):
            return
        clips = self.scenario.clips(self.rows)
        attention = None
        if clips.audio is not None and clips.visual is not None:
            attention = learner.attention(clips.audio, clips.visual)
        if attention is None:
            return
        self.spatial.append(attention.spatial)
        self.temporal.append(attention.temporal)
        tensors = {
            "spatial": torch.stack(self.spatial),
            "temporal": torch.stack(self.temporal),
            "rows": torch.from_numpy(self.rows),
        }
        write_tensors(self.path, tensors, {})


def _clips_to_paint(scenario: Scenario) -> Rows:
    """Choose test clips of the first task that have a video, in turn from each of its classes."""
    chosen: list[int] = []
    if scenario.modality != "audio-visual":
        return np.array(chosen, dtype=np.int64)
    first = scenario.tasks[0]
    videos = [int(row) for row in first.test if scenario.store.index["video"][int(row)] is not None]
    by_class = [[row for row in videos if scenario.store.labels[row] == name] for name in first.class_names]
    for place in range(max(map(len, by_class), default=0)):
        chosen += [rows[place] for rows in by_class if place < len(rows)]
    return np.array(chosen[:ATTENTION_CLIPS], dtype=np.int64)
