import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mcil.errors import McilError
from mcil.memory import SELECTORS, Memory, Selector, herding, random_selection
from mcil.types import Batch


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
