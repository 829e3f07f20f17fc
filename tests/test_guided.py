"""The network of the SAM-Audio-guided learner: against loops over single clips, and what it promises."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mcil.errors import McilError
from mcil.methods import GradientMethod, create_method
from mcil.models.guided import GuidedNet, HeadedAttention, steps_of_frames
from mcil.types import Outputs

AUDIO, VISUAL, WIDTH, HEADS, CLASSES = 5, 6, 8, 2, 4
CLIPS, STEPS, FRAMES, CELLS = 3, 6, 4, 9
GUIDANCE = ("guided", "context", "naive", "audio", "visual")
POSITIONS = ("time-cell", "time", "none")
FEATURES = ("logits", "fused", "audio", "visual", "pooled")
quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def holes(seed: int, tokens: Tensor, share: float = 0.3) -> Tensor:
    """Return the tokens with a ``share`` of them made zeros."""
    lost = torch.rand(tokens.shape[:-1], generator=torch.Generator().manual_seed(seed)) < share
    return tokens.masked_fill(lost[..., None], 0.0)


def clips(seed: int = 0, share: float = 0.3, clips: int = CLIPS) -> tuple[Tensor, Tensor]:
    """Return sounds (B,6,5) and pictures (B,4,9,6); a ``share`` of the tokens is absent, and a frame of the first."""
    audio = holes(seed, normal(seed, clips, STEPS, AUDIO), share)
    visual = holes(seed + 1, normal(seed + 1, clips, FRAMES, CELLS, VISUAL), share)
    if share:
        visual[0, 1] = 0
    return audio, visual


def net(guidance: str = "guided", seed: int = 0, **changes: Any) -> GuidedNet:
    """Return a network in float64, without dropout, that turns its places into more than a trifle."""
    torch.manual_seed(seed)
    values: dict[str, Any] = {"width": WIDTH, "heads": HEADS, "dropout": 0.0}
    network = GuidedNet({"audio": AUDIO, "visual": VISUAL}, CLASSES, guidance, **values | changes).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in ("time.weight", "cell.weight"):
                parameter.mul_(20)
            elif parameter.ndim == 1:  # else biases of projections would be near 0, and norms' weights 1
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return network


def says(network: GuidedNet, audio: Tensor | None, visual: Tensor | None, stem: bool = True) -> Outputs:
    outputs = network(*(network.stem(audio, visual) if stem else (audio, visual)))
    assert isinstance(outputs, Outputs)
    return outputs


def same(found: Outputs, expected: Outputs, names: tuple[str, ...] = FEATURES) -> None:
    for name in names:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# Attention of several heads.


def by_torch(attention: HeadedAttention, query: Tensor, tokens: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Ask tokens (B,S,d) with a query (B,d) by :class:`torch.nn.MultiheadAttention` of the same weights."""
    width = query.shape[-1]
    known = nn.MultiheadAttention(width, attention.heads, batch_first=True).to(query.dtype)
    with torch.no_grad():
        key, value = attention.key.reshape(width, width), attention.value.reshape(width, width)
        known.in_proj_weight.copy_(torch.cat([attention.query.weight, key, value]))
        known.in_proj_bias.zero_()
        known.in_proj_bias[:width] = attention.query.bias
        known.out_proj.weight.copy_(attention.output.weight)
        known.out_proj.bias.copy_(attention.output.bias)
    normed = attention.token_norm(tokens)
    answer, weights = known(
        attention.query_norm(query)[:, None],
        normed,
        normed,
        key_padding_mask=~there,
        average_attn_weights=False,
    )
    return answer[:, 0], weights[:, :, 0].transpose(1, 2)


@quick
@given(seeds, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_attention_is_what_torch_computes_with_the_same_weights(
    dtype: torch.dtype, tolerance: float, seed: int, heads: int, head: int, count: int, tokens: int
) -> None:
    torch.manual_seed(seed)
    attention, width = HeadedAttention(heads * head, heads).to(dtype), heads * head
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    query, asked = normal(seed, count, width).to(dtype), normal(seed + 1, count, tokens, width).to(dtype)
    there = normal(seed + 2, count, tokens) > 0
    there[:, 0] = True  # torch's has no answer where nothing is there
    found, expected = attention(query, asked, there), by_torch(attention, query, asked, there)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_attention_has_the_gradients_of_finite_differences_also_where_nothing_is_there() -> None:
    torch.manual_seed(0)
    attention = HeadedAttention(4, 2).double()
    there = torch.tensor([[True, False, True], [False, False, False]])
    inputs = (normal(0, 2, 4).requires_grad_(), normal(1, 2, 3, 4).requires_grad_())
    assert torch.autograd.gradcheck(lambda query, tokens: attention(query, tokens, there), inputs)
    answer, weights = attention(*inputs, there)
    assert weights[1].count_nonzero() == 0
    torch.testing.assert_close(answer[1], attention.output.bias)


# Which steps sound with which frame.


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def steps_by_hand(steps: Tensor, frames: int) -> list[Tensor]:
    """Return the mean of the steps (n,d) of a clip, all there, over the time of each of its ``frames``."""
    found = []
    for frame in range(frames):
        total = torch.zeros(steps.shape[1], dtype=steps.dtype)
        for number, step in enumerate(steps):
            whole = (number / len(steps), (number + 1) / len(steps))
            total = total + frames * overlap(whole, (frame / frames, (frame + 1) / frames)) * step
        found.append(total)
    return found


@quick
@given(seeds, st.integers(1, 7), st.integers(1, 5), st.floats(0, 1))
def test_steps_of_frames_are_what_loops_average(seed: int, steps: int, frames: int, share: float) -> None:
    sounds, heard = normal(seed, 4, steps, 2), torch.rand(4, steps) >= share
    shown = torch.rand(4, frames) >= share
    found = steps_of_frames(sounds, heard, shown)
    for clip in range(4):
        expected = steps_by_hand(sounds[clip][heard[clip]], int(shown[clip].sum()))
        torch.testing.assert_close(found[clip][~shown[clip]], torch.zeros_like(found[clip][~shown[clip]]))
        for ours, theirs in zip(found[clip][shown[clip]], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("steps", "frames"), [(8, 4), (6, 6), (5, 1), (250, 10)])
def test_steps_that_divide_among_the_frames_are_pooled_as_torch_does(steps: int, frames: int) -> None:
    sounds = normal(0, 2, steps, 3)
    all_there = torch.ones(2, steps, dtype=torch.bool), torch.ones(2, frames, dtype=torch.bool)
    expected = F.adaptive_avg_pool1d(sounds.transpose(1, 2), frames).transpose(1, 2)
    torch.testing.assert_close(steps_of_frames(sounds, *all_there), expected, rtol=1e-5, atol=1e-5)


# The whole network against its equations, one clip after the other.


def place(where: tuple[float, ...], weight: Tensor) -> Tensor:
    """Return the learnt function (d,) of a place: the sines of all coordinates, then the cosines."""
    angles = [math.pi * wave * coordinate for coordinate in where for wave in range(1, 9)]
    waves = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return torch.tensor(waves, dtype=weight.dtype) @ weight


def alone(tokens: Tensor) -> list[tuple[int, Tensor]]:
    """Return the numbers of the tokens (n,D) that are there, and their layer norms."""
    mean, spread = tokens.mean(dim=-1, keepdim=True), tokens.var(dim=-1, correction=0, keepdim=True)
    normed = (tokens - mean) / (spread + 1e-5).sqrt()
    return [(number, normed[number]) for number, token in enumerate(tokens) if token.count_nonzero()]


def ask(attention: HeadedAttention, query: Tensor, tokens: list[Tensor]) -> Tensor:
    """Return the answer (d,) of tokens (d,) to a query (d,)."""
    some = torch.stack(tokens)[None]
    return by_torch(attention, query[None], some, torch.ones(1, len(tokens), dtype=torch.bool))[0][0]


def mean(vectors: list[Tensor]) -> Tensor:
    return torch.stack(vectors).mean(dim=0)


def by_hand(network: GuidedNet, audio: Tensor, visual: Tensor) -> Tensor:
    """Return the logits (C,) of one clip, a sound (T,D) and a picture (L,S,D); absent tokens are never looked at."""
    steps, frames, heard = [], [], None
    if network.guidance != "visual":
        found = alone(audio)
        for number, (_, step) in enumerate(found):
            steps.append(network.audio_in(step))
            if network.time is not None:
                steps[-1] = steps[-1] + place(((number + 0.5) / len(found),), network.time.weight)
        heard = mean(steps)
    if network.guidance == "audio":
        return network.classifier(torch.relu(network.audio_out(heard))[None])[0]
    pictures = [alone(frame) for frame in visual]
    pictures = [frame for frame in pictures if frame]
    side, answers = math.isqrt(visual.shape[1]), []
    for number, frame in enumerate(pictures):
        tokens = []
        for cell, token in frame:
            tokens.append(network.visual_in(token))
            if network.time is not None:
                tokens[-1] = tokens[-1] + place(((number + 0.5) / len(pictures),), network.time.weight)
            # A frame that is averaged before it is read has no cells.
            if network.cell is not None and network.guidance in ("guided", "context"):
                where = ((cell // side + 0.5) / side, (cell % side + 0.5) / side)
                tokens[-1] = tokens[-1] + place(where, network.cell.weight)
        picture = mean(tokens)
        if network.guidance == "guided":
            asking = steps_by_hand(torch.stack(steps), len(pictures))[number]
            picture = picture + ask(network.attention, asking, tokens)
        elif network.guidance == "context":
            answers.append(ask(network.attention, picture, steps))
        hidden = network.mix[1](network.mix[0](picture))
        frames.append(picture + network.mixed(0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))))
    if answers:
        heard = heard + mean(answers)
    weights = [1 / len(frames)] * len(frames)
    if network.guidance == "guided" and network.temporal == "attention":
        asking = network.time_query(heard)
        scores = [math.exp((network.time_key(frame) @ asking).item() / math.sqrt(WIDTH)) for frame in frames]
        weights = [score / sum(scores) for score in scores]
    pooled = sum(weight * frame for weight, frame in zip(weights, frames, strict=True))
    features = [torch.relu(network.visual_out(pooled))]
    if heard is not None:
        features = [torch.relu(network.audio_out(heard)), *features]
    fused = torch.cat(features) if network.join == "concat" else sum(features)
    return network.classifier(fused[None])[0]


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_the_network_is_its_equations(guidance: str, positions: str) -> None:
    audio, visual = clips()
    for join, temporal, cosine in (("sum", "attention", False), ("concat", "mean", True)):
        network = net(guidance, positions=positions, join=join, temporal=temporal, cosine=cosine)
        expected = torch.stack([by_hand(network, *clip) for clip in zip(audio, visual, strict=True)])
        torch.testing.assert_close(says(network, audio, visual).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guidance", ["naive", "visual"])
def test_the_stem_makes_one_token_of_a_frame_that_nothing_looks_into(guidance: str) -> None:
    """Which is what the mean over the tokens of a frame would be if all were read."""
    audio, visual = clips()
    network = net(guidance, positions="time")
    sound, tokens = network.stem(audio, visual)
    assert tokens is not None
    assert tokens.shape == (CLIPS, FRAMES, 1, VISUAL)
    assert (sound is None) == (guidance == "visual")
    all_tokens = F.layer_norm(visual, (VISUAL,))
    same(network(sound, tokens), network(sound, all_tokens))
    assert all_tokens.shape[2] == CELLS
    for kept in ("guided", "context"):
        _, tokens = net(kept).stem(audio, visual)
        assert tokens is not None
        assert tokens.shape == visual.shape


@pytest.mark.parametrize("join", ["sum", "concat"])
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_what_it_puts_out_has_the_shapes_that_it_says(guidance: str, join: str) -> None:
    outputs = says(net(guidance, join=join), *clips())
    width = WIDTH if join == "sum" or guidance in ("audio", "visual") else 2 * WIDTH
    shapes = {"logits": (CLIPS, CLASSES), "fused": (CLIPS, width)}
    if guidance != "visual":
        shapes["audio"] = (CLIPS, WIDTH)
    if guidance != "audio":
        shapes |= {"visual": (CLIPS, WIDTH), "pooled": (CLIPS, WIDTH)}
    if guidance == "guided":
        shapes |= {
            "spatial_attention": (CLIPS, FRAMES, CELLS, HEADS),
            "temporal_attention": (CLIPS, FRAMES, 1),
        }
    found = {name: tuple(value.shape) for name, value in outputs._asdict().items() if value is not None}
    assert found == shapes
    for name in ("audio", "visual"):
        if name in shapes:
            length = getattr(outputs, name).norm(dim=1)
            torch.testing.assert_close(length, (length > 0.5).double())  # none, where the rectifier leaves nothing
            assert length.any()


def test_a_sound_may_be_one_vector() -> None:
    audio, visual = clips()
    network = net()
    same(says(network, audio[:, 0], visual), says(network, audio[:, :1], visual))


def test_attention_that_is_not_asked_for_is_not_handed_out() -> None:
    network, stemmed = net(), net().stem(*clips())
    quiet = network(*stemmed, need_attention=False)
    assert quiet.spatial_attention is None
    assert quiet.temporal_attention is None
    same(quiet, network(*stemmed))


# What absent tokens may not change, and places.


@quick
@given(seeds)
def test_weights_sum_to_one_over_what_is_there_and_are_zero_elsewhere(seed: int) -> None:
    audio, visual = clips(seed, 0.5)
    outputs = says(net(seed=seed), audio, visual)
    assert outputs.spatial_attention is not None
    assert outputs.temporal_attention is not None
    there = (visual != 0).any(dim=-1)
    shown = there.any(dim=-1)
    assert torch.equal(outputs.spatial_attention > 0, there[..., None].expand(-1, -1, -1, HEADS))
    torch.testing.assert_close(outputs.spatial_attention.sum(dim=2), shown[..., None].double().expand(-1, -1, HEADS))
    assert torch.equal(outputs.temporal_attention[..., 0] > 0, shown)
    torch.testing.assert_close(outputs.temporal_attention.sum(dim=1), shown.any(dim=1).double()[:, None])


@quick
@given(seeds, st.permutations(range(CELLS)))
@pytest.mark.parametrize("positions", ["time", "none"])
def test_cells_in_another_order_have_their_weights_in_it_and_logits_do_not_change(
    positions: str, seed: int, order: list[int]
) -> None:
    audio, visual = clips(seed)
    network = net(seed=seed, positions=positions)
    found, turned = says(network, audio, visual), says(network, audio, visual[:, :, order])
    same(turned, found)
    torch.testing.assert_close(turned.spatial_attention, found.spatial_attention[:, :, order])
    torch.testing.assert_close(turned.temporal_attention, found.temporal_attention)


def test_places_are_told_where_they_are_asked_for() -> None:
    """Cells in another order count with "time-cell", frames in another order also with "time"."""
    audio, visual = clips(share=0)
    for positions, of_cells, of_frames in (("time-cell", True, True), ("time", False, True), ("none", False, False)):
        # A sound of one step asks all frames the same.
        network, sound = net(positions=positions), audio[:, :1]
        logits = says(network, sound, visual).logits
        for dim, counts in ((2, of_cells), (1, of_frames)):
            assert torch.allclose(says(network, sound, visual.roll(1, dim)).logits, logits, atol=1e-6) != counts


def test_each_frame_is_asked_by_the_sound_of_its_time() -> None:
    audio, visual = clips(share=0)
    later = audio.clone()
    later[:, STEPS // 2 :] = normal(9, CLIPS, STEPS // 2, AUDIO)
    network = net(positions="none", temporal="mean")
    one, other = (says(network, sound, visual).spatial_attention for sound in (audio, later))
    assert one is not None
    assert other is not None
    assert torch.equal(one[:, : FRAMES // 2], other[:, : FRAMES // 2])
    assert not torch.allclose(one[:, FRAMES // 2 :], other[:, FRAMES // 2 :])


def spread(tokens: Tensor, dim: int, more: int, seed: int) -> Tensor:
    """Return tokens with ``more`` absent ones, anywhere along ``dim``."""
    order = torch.randperm(tokens.shape[dim] + more, generator=torch.Generator().manual_seed(seed))
    places = order[: tokens.shape[dim]].sort().values
    shape = list(tokens.shape)
    shape[dim] += more
    return tokens.new_zeros(shape).index_copy(dim, places, tokens)


@quick
@given(seeds, st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_absent_tokens_anywhere_change_nothing(guidance: str, seed: int, steps: int, frames: int, cells: int) -> None:
    """But cells, where these have a place: where each is in the picture depends on how many there are."""
    audio, visual = clips(seed, 0.2)
    for positions in POSITIONS:
        network = net(guidance, seed, positions=positions)
        more = spread(visual, 1, frames, seed)
        if positions != "time-cell":
            more = spread(more, 2, cells, seed + 1)
        same(says(network, spread(audio, 1, steps, seed + 2), more), says(network, audio, visual))


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("lost", ["sound", "picture", "both"])
def test_clips_that_lack_all_of_a_modality_have_finite_outputs_and_gradients(guidance: str, lost: str) -> None:
    audio, visual = clips()
    whole = says(net(guidance), audio, visual)
    if lost != "picture":
        audio[1] = 0
    if lost != "sound":
        visual[1] = 0
    for temporal in ("attention", "mean"):
        network = net(guidance, temporal=temporal)
        sound, tokens = (None if each is None else each.requires_grad_() for each in network.stem(audio, visual))
        outputs = network(sound, tokens)
        assert all(value.isfinite().all() for value in outputs if value is not None)
        sum(value.square().sum() for value in outputs if value is not None).backward()
        read = [each for each in (*network.parameters(), sound, tokens) if each is not None and each.grad is not None]
        assert len(read) > 5
        assert all(each.grad is not None and each.grad.isfinite().all() for each in read)
    # And nothing of it reaches the other clips.
    same(says(net(guidance), audio[[0, 2]], visual[[0, 2]]), Outputs(*(_rows(value) for value in whole)))


def _rows(value: Tensor | None) -> Tensor | None:
    return None if value is None else value[[0, 2]]


@pytest.mark.parametrize("guidance", GUIDANCE)
def test_gradients_are_those_of_finite_differences(guidance: str) -> None:
    network = net(guidance)
    audio, visual = clips(clips=2)
    inputs = (audio[:, :3].contiguous().requires_grad_(), visual[:, :2, :4].contiguous().requires_grad_())
    # An absent token is absent: what it would be if it were a little there is another clip.
    masks = [(each != 0).any(dim=-1, keepdim=True) for each in inputs]

    def logits(sound: Tensor, picture: Tensor) -> Tensor:
        return network(sound * masks[0], picture * masks[1]).logits

    assert torch.autograd.gradcheck(logits, inputs, atol=1e-4)


@pytest.mark.parametrize("guidance", GUIDANCE)
def test_autocast_comes_close_to_float32(guidance: str) -> None:
    network = net(guidance).float()
    stemmed = [None if each is None else each.float() for each in network.stem(*clips())]
    exact = network(*stemmed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = network(*stemmed)
    for name in (*FEATURES, "spatial_attention", "temporal_attention"):
        ours, theirs = getattr(narrow, name), getattr(exact, name)
        if theirs is not None:
            torch.testing.assert_close(ours.float(), theirs, rtol=0.1, atol=0.1)
    if guidance == "guided":
        assert narrow.spatial_attention.dtype == narrow.temporal_attention.dtype == torch.float32


# Growing, and mistakes.


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_growing_keeps_rows_and_logits(guidance: str, cosine: bool) -> None:
    network, given = net(guidance, cosine=cosine), clips()
    before, weights = says(network, *given), network.classifier.weight.clone()
    others = {name: value.clone() for name, value in network.state_dict().items() if "classifier" not in name}
    network.grow(CLASSES + 3)
    assert network.classes == CLASSES + 3
    assert torch.equal(network.classifier.weight[:CLASSES], weights)
    assert network.classifier.weight[CLASSES:].count_nonzero() == 3 * weights.shape[1]
    after = says(network, *given)
    torch.testing.assert_close(after.logits[:, :CLASSES], before.logits, rtol=0, atol=1e-12)
    assert after.logits.shape == (CLIPS, CLASSES + 3)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in others.items())
    with pytest.raises(ValueError, match="has 7 outputs and cannot shrink to 6"):
        network.grow(6)


def test_wrong_shapes_and_options_are_refused() -> None:
    audio, visual = clips()
    for wrong, form in ((audio[0, 0], r"\(5,\)"), (audio[..., :4], r"\(3, 6, 4\)"), (audio[None], r"\(1, 3, 6, 5\)")):
        with pytest.raises(ValueError, match=rf"audio must be \(B,T,D\) or \(B,D\) with D = 5, not {form}"):
            net().stem(wrong, visual)
    with pytest.raises(ValueError, match=r"visual must be \(B,L,S,D\) with D = 6, not \(3, 9, 6\)"):
        net().stem(audio, visual[:, 0])
    for guidance, sound, picture, name in (
        ("guided", None, visual, "audio"),
        ("naive", audio, None, "visual"),
        ("audio", None, visual, "audio"),
        ("visual", audio, None, "visual"),
    ):
        with pytest.raises(ValueError, match=f"of guidance '{guidance}' needs {name}"):
            says(net(guidance), sound, picture)
    with pytest.raises(ValueError, match="3 heads do not divide a width of 8"):
        net(heads=3)


# What the method makes of its options.


def method(**options: Any) -> GradientMethod:
    made = create_method("sam-audio-cil", {"width": WIDTH, "heads": HEADS, **options})
    assert isinstance(made, GradientMethod)
    return made


CHANNELS = {"audio": AUDIO, "visual": VISUAL}


@pytest.mark.parametrize("guidance", GUIDANCE)
def test_each_fusion_is_the_network_of_that_guidance(guidance: str) -> None:
    made = method(fusion=guidance).network(CHANNELS, CLASSES, "audio-visual")
    assert isinstance(made, GuidedNet)
    assert made.guidance == guidance
    own: tuple[Literal["audio", "visual"], ...] = ("audio", "visual")
    for modality in own:
        if guidance in own and guidance != modality:
            with pytest.raises(
                McilError, match=f"fusion '{guidance}' cannot learn from modality '{modality}'"
            ) as error:
                method(fusion=guidance).network(CHANNELS, CLASSES, modality)
            assert "\n" not in str(error.value)
        else:
            alone = method(fusion=guidance).network(CHANNELS, CLASSES, modality)
            assert isinstance(alone, GuidedNet)
            assert alone.guidance == modality


# Whether sound that tells where to look helps.


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return sounds (N,8), pictures (N,4,16,8) and labels of 20 classes, in groups of 4.

    A sound tells the group. Each frame shows one thing of the class in one of 16 cells, and things of classes of other
    groups in all others; so what is seen tells the class to who knows the group.
    """
    places = torch.Generator().manual_seed(99)
    looks = F.normalize(torch.randn(20, 8, generator=places), dim=1) * math.sqrt(8)
    sounds = torch.randn(5, 8, generator=places)
    made = torch.Generator().manual_seed(seed)
    labels = torch.arange(20).repeat_interleave(count // 20)
    group = labels // 4
    shown = torch.randint(16, (count, 4, 16), generator=made)
    shown = shown + 4 * (shown >= 4 * group[:, None, None])
    shown.scatter_(2, torch.randint(16, (count, 4, 1), generator=made), labels[:, None, None].expand(-1, 4, 1))
    visual = looks[shown] + 0.2 * torch.randn(count, 4, 16, 8, generator=made)
    return sounds[group] + 0.3 * torch.randn(count, 8, generator=made), visual, labels


def accuracy(guidance: str, epochs: int = 12) -> float:
    """Train a network of ``guidance`` on 800 scenes and return its share of right answers on 400 others."""
    torch.manual_seed(0)
    network = GuidedNet({"audio": 8, "visual": 8}, 20, guidance, width=32, heads=4)
    *given, labels = scenes(800, seed=1)
    stemmed = network.stem(*given)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(50):
            part = [None if each is None else each[batch] for each in stemmed]
            loss = F.cross_entropy(network(*part, need_attention=False).logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    *given, labels = scenes(400, seed=2)
    network.eval()
    with torch.no_grad():
        return (network(*network.stem(*given)).logits.argmax(dim=1) == labels).float().mean().item()


def test_guidance_pays_where_sound_tells_what_to_look_for() -> None:
    assert accuracy("audio") <= 0.35  # of four classes with the same sound
    assert accuracy("guided") >= accuracy("naive") + 0.05
