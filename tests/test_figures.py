"""What networks tell besides predictions: against plain loops, over a stop, and in the report."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import tiny
import tiny_released
from mcil import Learner, McilError, metrics, report
from mcil.data.class_text import ClassText, read_class_text, write_class_text
from mcil.data.scenario import Scenario
from mcil.data.store import FeatureStore
from mcil.experiment import Run
from mcil.experiment.folder import RunFolder
from mcil.experiment.single import run_single
from mcil.metrics.outcomes import FloatArray
from mcil.metrics.released import normalised_mutual_information
from mcil.models import Network
from mcil.models.figures import View, view_figures
from mcil.suites import SUITES
from mcil.types import Batch

TRAINING = dataclasses.replace(tiny.TRAINING, epochs=1, protocol="last")
TRIMODAL = ("mcil-audioclip", {"bottleneck": 4, "experts": 2})
BATCH = TRAINING.evaluation_batch_size


def write_text(store: FeatureStore) -> FeatureStore:
    """Add text about the classes a..f to a store, three prompts each."""
    values = np.random.default_rng(0).normal(size=(tiny.CLASSES, 3, 10))
    write_class_text(store.path, ClassText.given(list("abcdef"), values, {}))
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tiny.make_store(tmp_path_factory.mktemp("figures") / "store")).path


def run_one(store: Path, folder: Path, method: str, options: dict[str, Any], **changes: Any) -> Run:
    experiment = tiny.experiment(
        store, method=method, options=options, label=method, **{"training": TRAINING} | changes
    )
    return Run(folder, run_single(experiment, RunFolder(folder), lambda event: None))


@pytest.fixture(scope="module")
def trimodal(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_one(store, tmp_path_factory.mktemp("runs") / "trimodal", *TRIMODAL)


@pytest.fixture(scope="module")
def plain(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_one(store, tmp_path_factory.mktemp("runs") / "plain", "fine-tuning", {})


@pytest.fixture(scope="module")
def released_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("released")
    weights = tiny_released.weights(root / "weights")
    counts = {"train": 6, "val": 1, "test": 2}
    return tiny_released.make_store(root / "store", weights, counts).path, {"weights": str(weights)}


@pytest.fixture(scope="module")
def released(
    released_store: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, list[Network]]:
    """A run, and its network after each task."""
    networks = []

    def keep(self: RunFolder, task: int) -> None:
        learner = Learner.load(self.learner_checkpoint(task))
        assert isinstance(learner.network, Network)
        networks.append(copy.deepcopy(learner.network))

    store, options = released_store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "finish_task", keep)
        fast = dataclasses.replace(TRAINING, epochs=3, learning_rate=1.0)  # a task is over within the warm-up
        folder = tmp_path_factory.mktemp("runs") / "released"
        run = run_one(store, folder, "mcil-audioclip-released", options, training=fast)
    return run, networks


def clips_of(store: Path) -> Batch:
    """All test clips, in the order in which a run tests them after its last task."""
    scenario = Scenario(FeatureStore(store), tiny.SIZES)
    return scenario.clips(np.concatenate([task.test for task in scenario.tasks]))


def network_of(run: Run) -> tuple[Learner, Network]:
    learner = Learner.load(run.folder / "learner")
    assert isinstance(learner.network, Network)
    return learner, learner.network.eval()


# views of a batch


@given(sizes=st.lists(st.integers(0, 4), max_size=4), with_sound=st.booleans(), last_batch=st.booleans())
def test_figures_of_views_follow_their_definitions(sizes: list[int], with_sound: bool, last_batch: bool) -> None:
    random = torch.Generator().manual_seed(sum(sizes))
    views = []
    for size in sizes:
        fused, visual, audio = F.normalize(torch.randn(3, size, 5, generator=random), dim=2)
        heard = (torch.rand(size, generator=random) < 0.5).float()
        views.append(View(fused, visual, audio, heard) if with_sound else View(fused, visual))
    told = view_figures(views, last_batch)
    filled = [view for view in views if len(view.fused)]
    if not filled:
        assert told == {}
        return
    pictures = [row for view in (filled[-1:] if last_batch else filled) for row in view.visual.tolist()]
    expected = [sum(column) / len(pictures) for column in zip(*pictures, strict=True)]
    assert told.pop("visual_mean") == pytest.approx(expected, abs=1e-6)
    last = filled[-1]
    assert told.pop("nmi_visual") == normalised_mutual_information(last.visual, last.fused)
    if with_sound:
        heard = [value for view in filled for value in view.unmasked.tolist()]
        assert told.pop("unmasked") == pytest.approx(sum(heard) / len(heard))
        agreement = [
            np.corrcoef(one, other)[0, 1]
            for view in filled
            for one, other in zip(view.visual.numpy(), view.audio.numpy(), strict=True)
        ]
        assert told.pop("correlation") == pytest.approx(float(np.mean(agreement)), abs=1e-5)
        assert told.pop("nmi_audio") == normalised_mutual_information(last.audio, last.fused)
    assert told == {}


# metrics


@given(
    st.integers(1, 5).flatmap(
        lambda experts: st.lists(
            st.lists(st.integers(0, 9), min_size=experts, max_size=experts), min_size=1, max_size=3
        )
    )
)
def test_imbalance_follows_its_definition(picks: list[list[int]]) -> None:
    by_place = [statistics.pstdev(place) / statistics.mean(place) for place in picks if sum(place)]
    found = metrics.load_imbalance([[pick / max(sum(place), 1) for pick in place] for place in picks])
    if by_place:
        assert found == pytest.approx(statistics.mean(by_place), abs=1e-12)
    else:
        assert math.isnan(found)


def test_imbalance_is_0_in_balance_and_greatest_where_the_same_experts_are_always_picked() -> None:
    assert metrics.load_imbalance([[0.25] * 4]) == 0
    assert metrics.load_imbalance([[1.0, 0, 0, 0]]) == pytest.approx(math.sqrt(4 - 1))
    assert metrics.load_imbalance([[0.5, 0.5, 0, 0], [0.25] * 4]) == pytest.approx(math.sqrt(4 / 2 - 1) / 2)
    for wrong in ([0.5, 0.5], [], [[]]):
        with pytest.raises(ValueError, match="places, experts"):
            metrics.load_imbalance(wrong)


def worked() -> tuple[FloatArray, FloatArray, list[dict[str, Any]]]:
    """Step accuracies, accuracy matrix and figures of an example that the release's code computed."""
    matrix = np.full((4, 4), np.nan)
    for task, row in enumerate(([90], [70, 80], [60, 50, 90], [50, 60, 70, 40])):
        matrix[task, : task + 1] = row
    steps = np.array([90, 75, 200 / 3, 55])
    angles = np.cumsum([0.0, *(math.acos(2 * similarity - 1) for similarity in (0.9, 0.8, 0.7))])
    means = [[math.cos(angle), math.sin(angle)] for angle in angles]
    names = {"nmi_visual": 1.0005, "nmi_audio": 1.0005}
    return steps, matrix, [{"visual_mean": mean, "text_mean": mean, **names} for mean in means]


def test_released_metrics_are_those_of_the_published_code() -> None:
    found = metrics.network_figures(worked()[2], *worked()[:2])
    assert set(found) == {"task_similarity", "released"}
    for similarity in found["task_similarity"].values():
        np.testing.assert_allclose(similarity, [1, 0.9, 0.8, 0.7])
    assert found["released"]["metric1"] == pytest.approx(42.21, abs=0.005)
    assert found["released"]["metric2"] == pytest.approx(0.7826, abs=5e-5)


def test_the_similarity_of_the_first_metric_is_the_mean_of_both() -> None:
    steps, matrix, figures = worked()
    still = [told | {"text_mean": [1.0, 0.0]} for told in figures]
    found = metrics.network_figures(still, steps, matrix)
    assert found["task_similarity"]["text"].tolist() == [1, 1, 1, 1]
    # Forgetting 0, 0, 15 and 20; half of each 1 - s is left.
    expected = 71.67 / 2 + (0.05 * 100 + 0.1 * 85 + 0.15 * 80) / 4 / 2
    assert found["released"]["metric1"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("without", "left"),
    [("text_mean", {"metric2"}), ("visual_mean", {"metric2"}), ("nmi_audio", {"metric1"}), ("nmi_visual", {"metric1"})],
)
def test_what_the_network_does_not_tell_of_every_task_is_left_out(without: str, left: set[str]) -> None:
    steps, matrix, figures = worked()
    del figures[1][without]
    assert set(metrics.network_figures(figures, steps, matrix)["released"]) == left


def test_figures_of_another_number_of_tasks_are_refused() -> None:
    steps, matrix, figures = worked()
    with pytest.raises(ValueError, match="figures of 3 tasks, and accuracies of 4"):
        metrics.network_figures(figures[:3], steps, matrix)


def test_a_summary_holds_them_and_none_for_what_cannot_be_computed(plain: Run) -> None:
    nothing = {"visual_mean": [0.0, 0.0], "text_mean": [1.0, 0.0], "unmasked": 0.5, "load": {"text": [[0.0, 0.0]]}}
    said = metrics.summary(plain.tested, tiny.SIZES, "audio-visual", [nothing] * 3)
    assert said["task_similarity"] == {"text": [1, 1, 1], "visual": [1, None, None]}
    assert said["unmasked"] == [0.5] * 3
    assert said["load_imbalance"] == {"text": [None] * 3}
    assert said["released"] == {"metric1": None}
    json.dumps(said, allow_nan=False)


# networks


def test_a_trimodal_network_tells_what_its_outputs_show(trimodal: Run, store: Path) -> None:
    learner, network = network_of(trimodal)
    clips = clips_of(store)
    assert learner.scaler is not None
    with torch.no_grad():
        outputs = network(*network.stem(*learner.scaler(clips.audio, clips.visual)))
    assert outputs.visual is not None
    assert outputs.audio is not None
    assert outputs.prototypes is not None
    told = trimodal.figures[-1]
    assert set(told) == {
        "unmasked",
        "correlation",
        "visual_mean",
        "text_mean",
        "nmi_visual",
        "nmi_audio",
        "load",
    }
    assert told["visual_mean"] == pytest.approx(outputs.visual.mean(dim=0).tolist(), abs=1e-5)
    agreement = [np.corrcoef(one, other)[0, 1] for one, other in zip(outputs.visual, outputs.audio, strict=True)]
    assert told["correlation"] == pytest.approx(float(np.mean(agreement)), abs=1e-5)
    threshold = float(network.get_parameter(f"fusions.{len(tiny.SIZES) - 1}.threshold").detach())
    gates = [1 / (1 + math.exp((threshold - r) / 0.1)) for r in agreement]
    assert told["unmasked"] == pytest.approx(statistics.fmean(gates), abs=1e-5)
    assert 0 < told["unmasked"] < 1
    texts = torch.cat([network.get_buffer("prototypes"), outputs.prototypes])
    assert len(texts) == tiny.CLASSES
    assert told["text_mean"] == pytest.approx(F.normalize(texts, dim=1).mean(dim=0).tolist(), abs=1e-5)
    last = slice(len(clips) // BATCH * BATCH, None)
    for name, feature in (("visual", outputs.visual), ("audio", outputs.audio)):
        expected = normalised_mutual_information(feature[last], outputs.fused[last])
        assert told[f"nmi_{name}"] == pytest.approx(expected, abs=1e-5)


def test_with_a_hard_threshold_it_is_the_share_of_clips_whose_sound_takes_part(store: Path, tmp_path: Path) -> None:
    name, options = TRIMODAL
    run = run_one(store, tmp_path, name, {**options, "masking": "fixed", "threshold": 0.0})
    learner, network = network_of(run)
    clips = clips_of(store)
    assert learner.scaler is not None
    with torch.no_grad():
        outputs = network(*network.stem(*learner.scaler(clips.audio, clips.visual)))
    assert outputs.visual is not None
    heard = (outputs.fused - outputs.visual).abs().amax(dim=1) > 1e-5
    assert run.figures[-1]["unmasked"] == pytest.approx(float(heard.float().mean()))
    assert 0 < run.figures[-1]["unmasked"] < 1


def test_shares_of_experts_are_of_all_that_there_are_by_then(trimodal: Run) -> None:
    for task, told in enumerate(trimodal.figures):
        assert set(told["load"]) == {"audio", "visual"}
        for places in told["load"].values():
            for shares in places:
                assert len(shares) == 2 * (task + 1)
                assert sum(shares) == pytest.approx(1)
                assert max(shares) <= 0.5  # of two picks of different experts


def test_a_saved_learner_tells_the_same(trimodal: Run, released: tuple[Run, list[Network]], store: Path) -> None:
    for run, data in ((trimodal, store), (released[0], Path(released[0].result["data"]["store"]))):
        clips = clips_of(data)
        told = Learner.load(run.folder / "learner").figures(clips.audio, clips.visual)
        assert json.dumps(told) == json.dumps(run.figures[-1])


def test_a_network_of_one_modality_tells_nothing_of_the_other(store: Path, tmp_path: Path) -> None:
    seen = run_one(store, tmp_path / "visual", *TRIMODAL, modality="visual")
    assert [set(told) for told in seen.figures] == [{"visual_mean", "text_mean", "nmi_visual", "load"}] * 3
    assert set(seen.result["released"]) == {"metric1"}
    heard = run_one(store, tmp_path / "audio", *TRIMODAL, modality="audio", tasks=[6])
    assert [set(told) for told in heard.figures] == [{"text_mean", "nmi_audio", "load"}]
    assert set(heard.result["task_similarity"]) == {"text"}
    assert "released" not in heard.result


def test_the_release_reads_the_last_batch_and_text_as_it_was_before_the_task(
    released: tuple[Run, list[Network]],
) -> None:
    run, networks = released
    store = FeatureStore(run.result["data"]["store"])
    clips, text = clips_of(store.path), read_class_text(store.path)
    assert text is not None
    for task, seen in ((1, 5), (2, 6)):
        prompts = text.of("abcdef"[:seen])[:, -1]
        with torch.no_grad():
            before = networks[task - 1].encode_text(prompts).mean(dim=0)
            after = networks[task].encode_text(prompts).mean(dim=0)
        assert run.figures[task]["text_mean"] == pytest.approx(before.tolist(), abs=1e-5)
        assert run.figures[task]["text_mean"] != pytest.approx(after.tolist(), abs=1e-5)
    last = slice(len(clips) // BATCH * BATCH, None)
    assert clips.audio is not None
    assert clips.visual is not None
    with torch.no_grad():
        visual = networks[-1].eval()(clips.audio[last], clips.visual[last]).visual
    assert run.figures[-1]["visual_mean"] == pytest.approx(visual.mean(dim=0).tolist(), abs=1e-5)


def test_the_release_never_hears_and_always_picks_the_same_expert(released: tuple[Run, list[Network]]) -> None:
    run, _ = released
    assert run.result["unmasked"] == [0, 0, 0]
    for told in run.figures:
        assert told["load"] == {tower: [[1, 0, 0, 0, 0]] * 2 for tower in ("visual", "text")}
    assert run.result["load_imbalance"] == {tower: [pytest.approx(2)] * 3 for tower in ("visual", "text")}
    assert set(run.result["released"]) == {"metric1", "metric2"}


def test_other_learners_tell_nothing(plain: Run, store: Path) -> None:
    assert plain.figures == []
    assert not (plain.folder / "figures.json").exists()
    assert not {"unmasked", "load_imbalance", "task_similarity", "released"} & set(plain.result)
    closed = Learner("ncm", training=TRAINING)
    closed.learn(tiny.clips(0, 3), "abc")
    clips = clips_of(store)
    assert closed.figures(clips.audio, clips.visual) == {}
    with pytest.raises(McilError, match="has not learnt anything yet"):
        Learner("av-cil").figures(clips.audio, clips.visual)


# run folders


class Killed(BaseException):
    """Ends a run at once."""


@pytest.mark.parametrize("ending", ["figures.json", "predictions.parquet", "task-1/learner.safetensors"])
def test_a_run_that_was_killed_within_a_task_ends_with_the_same_list(
    ending: str, trimodal: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, seen = Path.replace, 0

    def kill(self: Path, target: Path) -> Path:
        nonlocal seen
        seen += str(target).endswith(ending)
        if str(target).endswith(ending) and (seen == 2 or ending.startswith("task-1")):
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with pytest.raises(Killed):
            run_one(store, tmp_path / "run", *TRIMODAL)
    assert len(RunFolder(tmp_path / "run").read_figures()) == (1 if ending == "figures.json" else 2)
    again = run_one(store, tmp_path / "run", *TRIMODAL)
    assert (again.folder / "figures.json").read_bytes() == (trimodal.folder / "figures.json").read_bytes()
    for name in ("unmasked", "load_imbalance", "task_similarity", "released"):
        assert again.result[name] == trimodal.result[name]


def test_a_run_that_lost_them_ends_without(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(self: RunFolder, last_task: int, result: dict[str, Any]) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", kill)
        with pytest.raises(Killed):
            run_one(store, tmp_path / "run", *TRIMODAL)
    (tmp_path / "run" / "figures.json").unlink()
    run = run_one(store, tmp_path / "run", *TRIMODAL)
    assert run.figures == []
    assert "released" not in run.result


@pytest.mark.parametrize("content", ["[{", '{"unmasked": 1}', "[1]"])
def test_damaged_figures_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "figures.json").write_text(content)
    with pytest.raises(McilError, match=r"figures\.json: this .*again") as raised:
        _ = Run(tmp_path, {}).figures
    assert "\n" not in str(raised.value)


# the report


def test_a_report_shows_them_beside_the_methods_that_have_them(trimodal: Run, plain: Run, tmp_path: Path) -> None:
    files = report.write([trimodal.folder, plain.folder], tmp_path)
    text = files.markdown.read_text()
    section = text.partition("## Fusion and experts")[2].partition("\n### ")[0]
    heads = ["Sound used (%)", "Imbalance, visual", "Imbalance, audio", "Similarity, text", "Similarity, visual"]
    assert f"| Method | {' | '.join(heads)} | Release's metric 1 | Release's metric 2 |" in section
    assert "Do not read them as results" in section
    assert "fine-tuning" not in section
    assert "Fusion and experts" in files.html.read_text()
    (row,) = pl.read_csv(tmp_path / "tables" / "networks.csv").rows(named=True)
    result = trimodal.result
    assert row["method"] == "mcil-audioclip"
    assert row["unmasked"] == pytest.approx(100 * result["unmasked"][-1], abs=1e-4)
    assert row["load_imbalance_audio"] == pytest.approx(result["load_imbalance"]["audio"][-1], abs=1e-4)
    assert row["task_similarity_text"] == pytest.approx(np.mean(result["task_similarity"]["text"][1:]), abs=1e-4)
    assert row["metric1"] == pytest.approx(result["released"]["metric1"], abs=1e-4)
    assert f"{row['metric2']:.2f}" in section


def test_a_report_on_runs_without_them_does_not_mention_them(plain: Run, tmp_path: Path) -> None:
    files = report.write([plain.folder], tmp_path)
    assert "Fusion and experts" not in files.html.read_text()
    assert not (tmp_path / "tables" / "networks.csv").exists()


def test_a_run_of_one_task_is_reported_without_a_similarity(store: Path, tmp_path: Path) -> None:
    run = run_one(store, tmp_path / "run", *TRIMODAL, tasks=[6])
    text = report.write([run.folder], tmp_path / "out").markdown.read_text()
    section = text.partition("## Fusion and experts")[2].partition("\n### ")[0]
    (row,) = [line for line in section.splitlines() if line.startswith("| mcil-")]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[0] == "mcil-audioclip"
    assert cells[4:6] == ["-", "-"]


def test_the_comparison_of_every_method_shows_them() -> None:
    assert "figures" in SUITES["table1"].sections
