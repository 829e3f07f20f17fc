"""Mixtures of adapters: routing against loops over single clips, what is trained, and what never changes later."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from mcil.encoders.tower import Adapt, Tower
from mcil.models.mixture import Adapter, Mixture, TowerAdapters

WIDTH, TOKENS, CLIPS = 6, 3, 16


def mixture(tasks: int = 1, adding: bool = True, **options: object) -> Mixture:
    """Return a mixture that has begun ``tasks`` tasks; with ``adding`` its experts do not add zero."""
    made = Mixture(WIDTH, **{"experts": 4, "bottleneck": 5, "dropout": 0.0} | options)
    for _ in range(tasks):
        made.grow()
        if adding:
            make_adding(made)
    return made


def make_adding(made: Mixture) -> None:
    """Let routers have preferences, and experts of the last task add something."""
    with torch.no_grad():
        made.routers[-1].normal_()
        for expert in made.experts[-made.new_experts :]:
            nn.init.normal_(expert.up.weight)


def clips(seed: int = 0, count: int = CLIPS) -> tuple[Tensor, Tensor]:
    """Return tokens (B,T,D) and their mean (B,D)."""
    tokens = torch.randn(count, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
    return tokens, tokens.mean(dim=1)


def picks(made: Mixture, summary: Tensor, task: int) -> list[list[int]]:
    """Return which experts each clip gets, computed clip by clip, where no expert is shut out."""
    scores = [[float(clip @ column) for column in made.routers[task].detach().T] for clip in summary]
    return [sorted(range(len(row)), key=lambda number: -row[number])[: made.top_k] for row in scores]


def train_a_task(made: Mixture, seed: int, steps: int = 5) -> None:
    """Train on clips with Adam and weight decay, and end the task."""
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimizer = Adam(trained, lr=0.05, weight_decay=0.1)
    tokens, summary = clips(seed)
    made.train()
    for _ in range(steps):
        loss = (made(tokens, summary, len(made.routers) - 1) - tokens.roll(1, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made.eval()
    for part in summary.split(5):
        made.count(part)
    made.freeze()


# adapters


def test_an_adapter_begins_as_zero_and_is_the_bottleneck_that_it_says() -> None:
    adapter, (tokens, _) = Adapter(WIDTH, 5, scale=0.3).eval(), clips()
    assert not adapter(tokens).any()
    nn.init.normal_(adapter.up.weight)
    hidden = (tokens @ adapter.down.weight.T + adapter.down.bias).clamp_min(0)
    torch.testing.assert_close(adapter(tokens), 0.3 * (hidden @ adapter.up.weight.T + adapter.up.bias))


def test_an_adapter_drops_in_training_only() -> None:
    adapter, (tokens, _) = Adapter(WIDTH, 50, dropout=0.5), clips()
    nn.init.normal_(adapter.up.weight)
    assert not torch.equal(adapter(tokens), adapter(tokens))
    adapter.eval()
    assert torch.equal(adapter(tokens), adapter(tokens))


def test_a_mixture_begins_as_zero_in_every_task() -> None:
    made, (tokens, summary) = mixture(adding=False), clips()
    for task in range(3):
        assert not made(tokens, summary, task).any()
        made.grow()


# routing


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("task", [0, 1])
def test_gates_and_outputs_are_those_of_a_loop_over_clips(top_k: int, task: int) -> None:
    made, (tokens, summary) = mixture(tasks=2, top_k=top_k, scale=0.7).eval(), clips()
    experts = 4 * (task + 1)
    with torch.no_grad():
        gates, added = made.gates(summary, task), made(tokens, summary, task)
        assert gates.shape == (CLIPS, experts)
        for clip, picked in enumerate(picks(made, summary, task)):
            weights = (summary[clip] @ made.routers[task])[picked].exp()
            expected = torch.zeros(experts)
            expected[picked] = weights / weights.sum()
            torch.testing.assert_close(gates[clip], expected)
            said = sum(expected[number] * made.experts[number](tokens[clip]) for number in picked)
            torch.testing.assert_close(added[clip], said)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_each_clip_gets_top_k_experts_whose_weights_sum_to_1(training: bool, top_k: int) -> None:
    gates = mixture(tasks=2, top_k=top_k).train(training).gates(clips()[1], 1)
    assert ((gates > 0).sum(dim=1) == top_k).all()
    assert (gates >= 0).all()
    torch.testing.assert_close(gates.sum(dim=1), torch.ones(CLIPS))


def test_noise_is_added_in_training_only_and_only_where_it_is_wanted() -> None:
    summary = clips()[1]
    for noisy in (True, False):
        made = mixture(noisy=noisy).train()
        assert torch.equal(made.gates(summary, 0), made.gates(summary, 0)) is not noisy
        made.eval()
        assert torch.equal(made.gates(summary, 0), made.gates(summary, 0))


def test_what_a_clip_gets_does_not_depend_on_its_batch() -> None:
    made, (tokens, summary) = mixture(tasks=2).eval(), clips()
    together = made(tokens, summary, 1)
    for clip in range(CLIPS):
        alone = made(tokens[clip : clip + 1], summary[clip : clip + 1], 1)
        torch.testing.assert_close(alone[0], together[clip])


def test_the_gradient_of_outputs_is_right() -> None:
    made = mixture(tasks=2, noisy=False).double().eval()
    tokens, summary = (clip.double().requires_grad_() for clip in clips(count=3))
    assert torch.autograd.gradcheck(lambda *given: made(*given, 1), (tokens, summary))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_router_and_noise_learn_with_two_experts_a_clip_and_cannot_with_one(top_k: int) -> None:
    made, (tokens, summary) = mixture(top_k=top_k).train(), clips()
    made(tokens, summary, 0).square().sum().backward()
    for parameter in (made.routers[0], made.noises[0]):
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) is (top_k > 1)
    assert any(expert.up.weight.grad is not None and expert.up.weight.grad.any() for expert in made.experts)


@pytest.mark.parametrize(("experts", "top_k"), [(4, 0), (4, 5), (1, 2)])
def test_impossible_numbers_of_experts_are_refused(experts: int, top_k: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the {experts} experts of a task, not {top_k}"):
        Mixture(WIDTH, experts, top_k)


# tasks


def test_a_task_trains_its_router_and_the_experts_that_are_free() -> None:
    made = mixture()
    train_a_task(made, seed=1)
    frozen = made.frozen.tolist()
    assert 0 < sum(frozen) <= 4
    made.grow()
    assert made.frozen.tolist() == [*frozen, *[False] * 4]
    for expert, held in zip(made.experts, made.frozen.tolist(), strict=True):
        assert all(parameter.requires_grad is not held for parameter in expert.parameters())
    for group in (made.routers, made.noises):
        assert [parameter.requires_grad for parameter in group] == [False, True]
        assert [tuple(parameter.shape) for parameter in group] == [(WIDTH, 4), (WIDTH, 8)]


def test_experts_are_counted_as_a_loop_counts_and_those_never_picked_stay_free() -> None:
    made, summary = mixture(top_k=1).eval(), clips()[1]
    with torch.no_grad():
        made.routers[0][:, 2] = 0
        made.routers[0][:, 3] = -made.routers[0][:, 0]  # one of both is always above the third's zero
    expected = [0.0] * 4
    for (number,) in picks(made, summary, 0):
        expected[number] += 1
    for part in summary.split(3):
        made.count(part)
    assert made.load[-1].tolist() == expected
    assert made.shares() == pytest.approx([count / CLIPS for count in expected])
    made.freeze()
    assert made.frozen.tolist() == [count > 0 for count in expected]
    assert made.frozen.tolist()[2] is False
    made.grow()
    assert all(parameter.requires_grad for parameter in made.experts[2].parameters())


def test_what_a_task_computes_never_changes_later() -> None:
    """Also of clips that nobody has counted, which would pick experts that are still free."""
    made = mixture(top_k=1)
    outputs: list[list[Tensor]] = []
    unseen = [clips(seed, 64) for seed in (7, 8)]
    states: list[dict[str, Tensor]] = []
    for task in range(4):
        if task:
            made.grow()
            make_adding(made)
        train_a_task(made, seed=task)
        with torch.no_grad():
            now = [[made(tokens, summary, past) for tokens, summary in unseen] for past in range(task + 1)]
        for before, after in zip(outputs, now, strict=False):
            assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
        outputs = now
        state = copy.deepcopy(made.state_dict())
        for number, frozen in enumerate(states[-1]["frozen"].tolist() if states else []):
            own = [name for name in states[-1] if name.startswith(f"experts.{number}.")]
            assert len(own) == 4
            assert all(torch.equal(states[-1][name], state[name]) for name in own) or not frozen
        states.append(state)


def test_clips_pick_among_the_experts_that_were_counted_once_a_task_has_ended() -> None:
    made, summary = mixture(top_k=1).eval(), clips(count=64)[1]
    made.count(summary[:1])
    made.freeze()
    assert (made.gates(summary, 0) > 0).any(dim=0).tolist() == made.frozen.tolist()
    assert sum(made.frozen.tolist()) == 1


def test_a_state_fits_a_mixture_of_as_many_tasks_and_counts_go_on() -> None:
    made = mixture()
    train_a_task(made, seed=1)
    made.grow()
    make_adding(made)
    train_a_task(made, seed=2)
    other = mixture(tasks=2).eval()
    other.load_state_dict(made.state_dict())
    tokens, summary = clips(5)
    for task in range(2):
        assert torch.equal(other(tokens, summary, task), made(tokens, summary, task))
    for each in (made, other):
        torch.manual_seed(3)
        each.grow()
        assert [p.requires_grad for p in each.parameters()] == [p.requires_grad for p in made.parameters()]
    assert other.shares() == made.shares() == [0.0] * 12
    with pytest.raises(RuntimeError, match="size mismatch for frozen"):
        mixture(tasks=1).load_state_dict(made.state_dict())


# towers


class Layers(Tower):
    """A tower of three layers that add 1, which notes what it is told to add."""

    widths, width = (2, 4, 6), 6

    def below(self, inputs: Tensor, place: int) -> Tensor:
        return inputs

    def above(self, hidden: Tensor, place: int, adapt: Adapt | None = None) -> Tensor:
        assert adapt is not None
        for number in range(place, 3):
            part = hidden[..., : self.widths[number]]
            hidden = hidden + nn.functional.pad(adapt(number, part, part.mean(dim=1)), (0, 6 - part.shape[-1]))
        return hidden


@pytest.mark.parametrize("first", [0, 1, 2])
def test_adapters_of_a_tower_sit_beside_its_places_from_the_first(first: int) -> None:
    adapters, tower = TowerAdapters((2, 4, 6), first, experts=2, bottleneck=3), Layers()
    assert [made.width for made in adapters.mixtures] == [2, 4, 6][first:]
    tokens = clips()[0]
    for _ in range(2):
        adapters.grow()
        for made in adapters.mixtures:
            make_adding(made)
    adapters.eval()
    with torch.no_grad():
        expected = tokens
        for made in adapters.mixtures:
            part = expected[..., : made.width]
            expected = expected + nn.functional.pad(made(part, part.mean(dim=1), 1), (0, 6 - made.width))
        torch.testing.assert_close(tower.above(tokens, first, adapters.of(1)), expected)
        assert all(not made.load.any() for made in adapters.mixtures)
        torch.testing.assert_close(tower.above(tokens, first, adapters.of(1, count=True)), expected)
    assert [made.load[-1].sum() for made in adapters.mixtures] == [2 * CLIPS] * (3 - first)
    shares: Sequence[Sequence[float]] = adapters.shares()
    assert [sum(row) for row in shares] == pytest.approx([1] * (3 - first))
    adapters.freeze()
    assert all(made.frozen.any() for made in adapters.mixtures)
