import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import golden
from mcil.errors import McilError
from mcil.memory import SELECTORS, Memory, Selector, herding, random_selection
from mcil.types import Batch, concatenate


def clips_of(counts: list[int], first: int = 0) -> Batch:
    """Return ``counts[i]`` clips of class ``first + i``; the audio of a clip is its number within its class."""
    labels = torch.cat([torch.full((count,), first + i) for i, count in enumerate(counts)])
    audio = torch.cat([torch.arange(count) for count in counts]).float()[:, None]
    return Batch(audio, None, labels)


def numbers(clips: Batch) -> list[int]:
    assert clips.audio is not None
    return [int(number) for number in clips.audio[:, 0]]


def features_of(clips: Batch) -> Tensor:
    """Return features (N,2) that tell the clips of a class apart."""
    assert clips.audio is not None
    return torch.cat([clips.audio, torch.ones_like(clips.audio)], dim=1)


def keep(memory: Memory, clips: Batch, seen: int, select: Selector, seed: int = 0) -> None:
    memory.update(clips, features_of(clips), seen, select, torch.Generator().manual_seed(seed))


def backwards(features: Tensor, quota: int, generator: torch.Generator) -> Tensor:
    return torch.arange(len(features)).flip(0)[:quota]


tasks = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=4)


@given(tasks, st.integers(12, 60), st.sampled_from(list(SELECTORS.values())), st.integers(0, 99))
def test_classes_share_the_budget(task_counts: list[list[int]], budget: int, select: Selector, seed: int) -> None:
    memory = Memory(budget)
    counts: list[int] = []
    for new in task_counts:
        before = [numbers(clips) for clips in memory.classes]
        keep(memory, clips_of(new, len(counts)), len(counts) + len(new), select, seed)
        counts += new
        quota = budget // len(counts)
        assert [len(clips) for clips in memory.classes] == [min(count, quota) for count in counts]
        assert len(memory) <= budget
        for kept, had in zip(memory.classes, before, strict=False):
            assert numbers(kept) == had[:quota]  # the first of the list stay
        for label, kept in enumerate(memory.classes):
            assert set(kept.labels.tolist()) == {label}
            assert len(set(numbers(kept))) == len(kept)
        assert memory.clips.labels.tolist() == sorted(memory.clips.labels.tolist())


def test_the_selector_decides_what_is_kept_and_in_which_order() -> None:
    memory = Memory(6)
    keep(memory, clips_of([5, 2]), 2, backwards)
    assert [numbers(clips) for clips in memory.classes] == [[4, 3, 2], [1, 0]]
    keep(memory, clips_of([4], first=2), 3, backwards)
    assert [numbers(clips) for clips in memory.classes] == [[4, 3], [1, 0], [3, 2]]


def test_what_is_kept_does_not_hold_the_rest_alive() -> None:
    memory = Memory(2)
    keep(memory, clips_of([1000, 1000]), 2, backwards)
    for clips in memory.classes:
        assert clips.audio is not None
        assert clips.audio.untyped_storage().nbytes() == 4


@pytest.mark.parametrize("budget", [2, 0, -4])
def test_a_budget_too_small_is_one_line(budget: int) -> None:
    memory = Memory(budget)
    with pytest.raises(McilError, match=rf"memory of {budget} clips .* 3 classes; set memory to 3 or more") as error:
        keep(memory, clips_of([1, 1, 1]), 3, random_selection)
    assert "\n" not in str(error.value)
    assert len(memory) == 0


def test_random_selection_is_seeded() -> None:
    features = torch.zeros(30, 2)
    first, same, other = (
        random_selection(features, 8, torch.Generator().manual_seed(seed)).tolist() for seed in (0, 0, 1)
    )
    assert first == same != other
    assert len(set(first)) == 8


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector] if length else vector


def distances(features: list[list[float]], chosen: list[int]) -> list[float]:
    """Return, for each clip, how far the mean of it and those chosen would be from the mean of all."""
    width, found = len(features[0]), []
    for candidate in features:
        together = [*(features[index] for index in chosen), candidate]
        error = 0.0
        for channel in range(width):
            mean = sum(clip[channel] for clip in features) / len(features)
            error += (mean - sum(clip[channel] for clip in together) / len(together)) ** 2
        found.append(math.sqrt(error))
    return found


@given(
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(0, 10),
    st.booleans(),
    st.integers(0, 2),
    st.integers(0, 2**32 - 1),
)
def test_herding_takes_what_loops_find_nearest_each_time(
    clips: int, width: int, quota: int, repeats: bool, dead: int, seed: int
) -> None:
    features = torch.randn(clips, width, generator=torch.Generator().manual_seed(seed))
    features[:dead] = 0  # rectified features may vanish
    chosen = herding(features, quota, repeats=repeats).tolist()
    assert len(chosen) == min(quota, clips)
    assert repeats or len(set(chosen)) == len(chosen)
    units = [unit(row) for row in features.double().tolist()]
    for count, index in enumerate(chosen):
        found = distances(units, chosen[:count])
        free = [distance for clip, distance in enumerate(found) if repeats or clip not in chosen[:count]]
        assert found[index] <= min(free) + 1e-12  # of two that are equally near either may be taken


@pytest.mark.parametrize("number", [1, 2])
def test_herding_matches_the_published_code(number: int) -> None:
    data = golden.load(number)
    features, order = data["herding_features"], data["herding_order"]
    assert torch.equal(herding(features, len(order), repeats=True), order)


def test_herding_is_the_same_in_every_type_and_chooses_no_clip_twice() -> None:
    """In the second step the published code took a clip again: a place of the memory spent on nothing new."""
    data = golden.load(2)
    features, order = data["herding_features"], data["herding_order"].tolist()
    assert len(set(order)) < len(order)
    chosen = herding(features, len(order)).tolist()
    assert len(set(chosen)) == len(order)
    assert herding(features.double(), len(order)).tolist() == chosen
    assert herding(3 * features.requires_grad_(), len(order)).tolist() == chosen


def test_herding_asks_for_nothing_random() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    herding(torch.eye(5), 3, generator)
    assert torch.equal(generator.get_state(), before)


@given(tasks, st.integers(12, 60), st.sampled_from(list(SELECTORS.values())), st.integers(0, 99))
def test_what_is_chosen_is_what_is_kept(task_counts: list[list[int]], budget: int, select: Selector, seed: int) -> None:
    memory, known = Memory(budget), 0
    for counts in task_counts:
        new, seen = clips_of(counts, known), known + len(counts)
        before = list(memory.classes)
        generator = torch.Generator().manual_seed(seed)
        chosen = memory.choose(new.labels, features_of(new), seen, select, generator)
        assert memory.classes == before  # choosing changes nothing
        expected = concatenate([new, *before]).select(chosen)
        keep(memory, new, seen, select, seed)
        assert numbers(memory.clips) == numbers(expected)
        assert torch.equal(memory.clips.labels, expected.labels)
        known = seen


def test_stored_logits_stay_with_their_clips_and_are_unknown_for_later_classes() -> None:
    memory = Memory(6)
    first, second = clips_of([3, 3]), clips_of([3], first=2)

    def with_logits(clips: Batch, classes: int) -> Batch:
        """Return the clips; a clip's logit of class c is 100 c + its number within its class."""
        logits = torch.tensor([[100.0 * c + number for c in range(classes)] for number in numbers(clips)])
        return Batch(clips.audio, None, clips.labels, logits)

    keep(memory, with_logits(first, 2), 2, backwards)
    keep(memory, with_logits(second, 3), 3, backwards)
    clips = memory.clips
    assert clips.logits is not None
    assert clips.logits.shape == (6, 3)
    assert numbers(clips) == [2, 1, 2, 1, 2, 1]
    for number, label, logits in zip(numbers(clips), clips.labels.tolist(), clips.logits.tolist(), strict=True):
        assert logits[:2] == [number, 100.0 + number]
        assert math.isnan(logits[2]) if label < 2 else logits[2] == 200.0 + number
