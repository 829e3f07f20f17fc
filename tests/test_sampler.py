import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcil.data.sampler import derive_seed, displaced, generator, joint_batches, paired_batches, shuffled_batches

counts = st.integers(1, 60)
sizes = st.integers(1, 20)
seeds = st.integers(0, 2**31)


@given(counts, sizes, seeds)
def test_an_epoch_is_a_permutation_without_its_last_partial_batch(count: int, size: int, seed: int) -> None:
    batches = shuffled_batches(count, size, seed)
    indices = torch.cat(batches).tolist()
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(range(count))
    assert [len(batch) for batch in batches] == ([size] * (count // size) if count >= size else [count])


@given(counts, sizes, seeds)
def test_the_order_depends_on_the_seed_only(count: int, size: int, seed: int) -> None:
    torch.manual_seed(1)
    first = shuffled_batches(count, size, seed, 3)
    torch.rand(5)
    state = torch.get_rng_state()
    second = shuffled_batches(count, size, seed, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_another_seed_or_epoch_gives_another_order() -> None:
    orders = {tuple(torch.cat(shuffled_batches(40, 8, seed, epoch)).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


@given(st.integers(2, 60), seeds)
def test_a_displaced_order_leaves_nothing_in_its_place(count: int, seed: int) -> None:
    order = displaced(count, seed, "a")
    assert sorted(order.tolist()) == list(range(count))
    assert (order != torch.arange(count)).all()
    assert torch.equal(order, displaced(count, seed, "a"))


def test_displaced_orders_differ_by_seed_and_need_two() -> None:
    assert len({tuple(displaced(20, seed, task).tolist()) for seed in (0, 1) for task in (0, 1)}) == 4
    assert displaced(2, 0).tolist() == [1, 0]
    for count in (0, 1):
        with pytest.raises(ValueError, match="cannot change places"):
            displaced(count, 0)


@given(counts, st.integers(0, 30), sizes, sizes, seeds)
def test_exemplars_start_over_when_they_run_out(
    new: int, exemplars: int, new_size: int, exemplar_size: int, seed: int
) -> None:
    pairs = paired_batches(new, exemplars, new_size, exemplar_size, seed)
    assert len(pairs) == len(shuffled_batches(new, new_size, seed))
    assert len(torch.cat([batch for batch, _ in pairs]).unique()) == sum(len(batch) for batch, _ in pairs)
    given_exemplars = [batch.tolist() for _, batch in pairs]
    if not exemplars:
        assert given_exemplars == [[]] * len(pairs)
        return
    turn = max(1, exemplars // exemplar_size)
    size = min(exemplars, exemplar_size)
    assert all(len(batch) == size for batch in given_exemplars)
    for step, batch in enumerate(given_exemplars):
        assert batch == given_exemplars[step % turn]
    within = [index for batch in given_exemplars[:turn] for index in batch]
    assert len(set(within)) == len(within)
    assert set(within) <= set(range(exemplars))


def test_new_clips_and_exemplars_are_shuffled_independently() -> None:
    ((new, exemplars),) = paired_batches(30, 30, 30, 30, 0)
    assert not torch.equal(new, exemplars)


@given(st.integers(0, 40), st.integers(0, 30), sizes, seeds)
def test_joint_batches_are_parts_of_one_shuffled_set(new: int, exemplars: int, size: int, seed: int) -> None:
    pairs = joint_batches(new, exemplars, size, seed)
    together = new + exemplars
    lengths = [len(own) + len(old) for own, old in pairs]
    assert lengths == ([size] * (together // size) if together >= size else [together] * (together > 0))
    first = [index for own, _ in pairs for index in own.tolist()]
    second = [index for _, old in pairs for index in old.tolist()]
    assert len(set(first)) == len(first)
    assert set(first) <= set(range(new))
    assert len(set(second)) == len(second)
    assert set(second) <= set(range(exemplars))
    if together and (together < size or together % size == 0):
        assert (len(first), len(second)) == (new, exemplars)
    again = joint_batches(new, exemplars, size, seed)
    assert all(
        torch.equal(a, b) for one, other in zip(pairs, again, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_joint_batches_mix_new_clips_and_exemplars_by_chance() -> None:
    """Over many epochs each batch holds as many exemplars as their share, but not always."""
    shares = [len(old) for epoch in range(50) for _, old in joint_batches(60, 20, 8, 0, epoch)]
    assert 1.8 < sum(shares) / len(shares) < 2.2
    assert len(set(shares)) > 3
    assert {len(own) + len(old) for own, old in joint_batches(60, 20, 8, 0, 1)} == {8}


def test_no_clips_give_no_batch() -> None:
    assert shuffled_batches(0, 4, 0) == []
    assert joint_batches(0, 0, 4, 0) == []
    assert paired_batches(0, 5, 4, 4, 0) == []


@given(seeds, st.sampled_from(["task", "batches"]), st.integers(0, 5))
def test_derived_seeds_depend_on_every_part(seed: int, use: str, task: int) -> None:
    derived = derive_seed(seed, use, task)
    assert 0 <= derived < 2**63
    assert derived == derive_seed(seed, use, task)
    assert derived not in {derive_seed(seed + 1, use, task), derive_seed(seed, "x", task), derive_seed(seed, use, 9)}
    assert torch.equal(torch.rand(3, generator=generator(seed)), torch.rand(3, generator=generator(seed)))
