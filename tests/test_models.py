"""The audio-visual network and its input scaling: against loops, the published code's values, and promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import golden
from mcil.errors import McilError
from mcil.losses import (
    attention_distillation,
    class_similarity,
    instance_similarity,
    separated_cross_entropy,
    task_distillation,
)
from mcil.models import AudioVisualNet, InputScaler, audio_guided_attention

BOTH = ("audio-visual", "audio", "visual")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 2])
def published(request: pytest.FixtureRequest) -> golden.Golden:
    return golden.load(request.param)


def test_forward_matches_the_published_code(published: golden.Golden) -> None:
    outputs = published.network("new")(**published.batch)
    golden.assert_matches(outputs.logits, published["logits"])
    golden.assert_matches(outputs.fused, published["fused"])
    golden.assert_matches(outputs.audio, published["f_audio"])
    golden.assert_matches(outputs.visual, published["f_visual"])
    golden.assert_matches(outputs.spatial_attention, published["spatial_attention"])
    golden.assert_matches(outputs.temporal_attention, published["temporal_attention"])
    old = published.network("old")(**published.batch)
    golden.assert_matches(old.logits, published["old_logits"])
    golden.assert_matches(old.spatial_attention, published["old_spatial_attention"])
    golden.assert_matches(old.temporal_attention, published["old_temporal_attention"])


def test_one_modality_matches_the_published_code(published: golden.Golden) -> None:
    for modality in ("audio", "visual"):
        outputs = published.network(f"{modality}_only", modality)(**published.batch)
        golden.assert_matches(outputs.logits, published[f"{modality}_only_logits"])


def test_gradients_of_av_cil_match_the_published_code(published: golden.Golden) -> None:
    network, meta, labels = published.network("new"), published.meta, published["labels"]
    student, exemplars = network(**published.batch), slice(published.meta["new"], None)
    with torch.no_grad():
        teacher = published.network("old")(**published.batch)
    spatial, temporal = (
        attention_distillation(getattr(student, name)[exemplars], getattr(teacher, name)[exemplars], -2)
        for name in ("spatial_attention", "temporal_attention")
    )
    total = (
        separated_cross_entropy(student.logits, labels, published.old_classes)
        + task_distillation(student.logits, teacher.logits, published.old_task_sizes, meta["kd_temperature"])
        + meta["lam_instance"] * instance_similarity(student.audio, student.visual, meta["tau"])
        + meta["lam_class"] * class_similarity(student.audio, student.visual, labels, meta["tau"])
        + meta["lam_vad"] * spatial
        + (1 - meta["lam_vad"]) * temporal
    )
    golden.assert_matches(total, published["loss_total"])
    total.backward()
    gradients = {name: weight.grad for name, weight in network.named_parameters()}
    assert gradients.keys() == published.weights("grad").keys()
    for name, gradient in gradients.items():
        golden.assert_matches(gradient, published[f"grad.{name}"])


def guided_inputs(clips: int, frames: int, patches: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    tokens = normal(0, 2, clips, frames, patches, width).double()
    return normal(1, clips, width).double(), tokens[0], tokens[1]


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def test_attention_is_what_loops_compute() -> None:
    audio, visual, tokens = guided_inputs(2, 4, 5, 3)
    pooled, spatial, temporal = audio_guided_attention(audio, visual, tokens)
    for clip in range(2):
        for channel in range(3):
            guide = audio[clip, channel].item()
            scores, values = [], []
            for frame in range(4):
                seen, raw = visual[clip, frame, :, channel].tolist(), tokens[clip, frame, :, channel].tolist()
                weights = softmax([guide * token for token in seen])
                assert spatial[clip, frame, :, channel].tolist() == pytest.approx(weights)
                scores.append(guide * sum(w * token for w, token in zip(weights, seen, strict=True)))
                values.append(sum(w * token for w, token in zip(weights, raw, strict=True)))
            weights = softmax(scores)
            assert temporal[clip, :, channel].tolist() == pytest.approx(weights)
            expected = sum(w * value for w, value in zip(weights, values, strict=True))
            assert pooled[clip, channel].item() == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_attention_is_that_of_each_clip_without_its_absent_tokens(seed: int, share: float) -> None:
    audio, visual, tokens = guided_inputs(3, 4, 5, 3)
    there = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed)) > share
    tokens = tokens * there[..., None]
    pooled, spatial, temporal = audio_guided_attention(audio, visual, tokens, there)
    for clip in range(3):
        frames = [frame for frame in range(4) if there[clip, frame].any()]
        scores, values = torch.zeros(0, 3).double(), torch.zeros(0, 3).double()
        for frame in frames:
            own = there[clip, frame]
            weights = (visual[clip, frame, own] * audio[clip]).softmax(dim=0)
            torch.testing.assert_close(spatial[clip, frame, own], weights)
            scores = torch.cat([scores, (weights * visual[clip, frame, own]).sum(0, keepdim=True) * audio[clip]])
            values = torch.cat([values, (weights * tokens[clip, frame, own]).sum(0, keepdim=True)])
        torch.testing.assert_close(temporal[clip, frames], scores.softmax(dim=0))
        torch.testing.assert_close(pooled[clip], (scores.softmax(dim=0) * values).sum(dim=0))
    assert not spatial[~there].any()
    assert not temporal[~there.any(dim=2)].any()


def test_attention_with_a_mask_of_all_tokens_is_that_without_one_to_the_bit() -> None:
    inputs = guided_inputs(2, 4, 5, 3)
    masked = audio_guided_attention(*inputs, torch.ones(2, 4, 5, dtype=torch.bool))
    for found, expected in zip(masked, audio_guided_attention(*inputs), strict=True):
        assert torch.equal(found, expected)


def test_clips_without_any_token_have_finite_gradients() -> None:
    audio, visual, tokens = (tensor.requires_grad_() for tensor in guided_inputs(2, 2, 3, 3))
    there = torch.tensor([False, True])[:, None, None].expand(2, 2, 3)
    audio_guided_attention(audio, visual, tokens, there).pooled.sum().backward()
    for tensor in (audio, visual, tokens):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert not tensor.grad[0].any()
        assert tensor.grad[1].any()


def test_attention_over_one_frame_and_patch_is_the_token_itself() -> None:
    tokens = normal(0, 3, 1, 1, 4)
    pooled, spatial, temporal = audio_guided_attention(normal(1, 3, 4), normal(2, 3, 1, 1, 4), tokens)
    assert pooled.equal(tokens[:, 0, 0])
    assert spatial.equal(torch.ones(3, 1, 1, 4))
    assert temporal.equal(torch.ones(3, 1, 4))


def test_a_single_token_needs_no_attention_and_is_scored_as_with_it() -> None:
    """So its projections learn nothing, and whatever they say changes nothing."""
    audio, token = normal(0, 5, 8), normal(1, 5, 1, 1, 8)
    network = AudioVisualNet(8, 4)
    outputs = network(audio, token)
    attended = audio_guided_attention(
        torch.tanh(network.attn_audio_proj(audio)), torch.tanh(network.attn_visual_proj(token)), token
    )
    torch.testing.assert_close(outputs.logits, network.fuse(audio, attended.pooled).logits)
    for name, expected in (("spatial_attention", attended.spatial), ("temporal_attention", attended.temporal)):
        torch.testing.assert_close(getattr(outputs, name), expected)
    outputs.logits.sum().backward()
    assert network.audio_proj.weight.grad is not None
    assert network.attn_visual_proj.weight.grad is None


def test_attention_gradients_are_those_of_finite_differences() -> None:
    inputs = [tensor.requires_grad_() for tensor in guided_inputs(2, 2, 3, 3)]
    assert torch.autograd.gradcheck(audio_guided_attention, inputs)


def test_outputs_of_each_modality() -> None:
    audio, visual = normal(0, 5, 8), normal(1, 5, 2, 3, 8)
    for modality in BOTH:
        outputs = AudioVisualNet(8, 4, modality)(audio, visual)
        assert outputs.logits.shape == (5, 4)
        assert outputs.fused.shape == (5, 8)
        assert (outputs.audio is not None) == (modality != "visual")
        assert (outputs.visual is not None) == (modality != "audio")
        assert (outputs.spatial_attention is not None) == (modality == "audio-visual")
        for feature in (outputs.audio, outputs.visual):
            if feature is not None:
                torch.testing.assert_close(feature.norm(dim=1), torch.ones(5))
    quiet = AudioVisualNet(8, 4)(audio, visual, need_attention=False)
    assert quiet.spatial_attention is None
    assert quiet.temporal_attention is None


def test_each_modality_changes_the_prediction() -> None:
    network, audio, visual = AudioVisualNet(8, 4), normal(0, 6, 8), normal(1, 6, 2, 3, 8)
    logits = network(audio, visual).logits
    assert not torch.allclose(network(audio.roll(1, 0), visual).logits, logits)
    assert not torch.allclose(network(audio, visual.roll(1, 0)).logits, logits)


def test_one_modality_networks_ignore_the_other_and_hold_no_weights_for_it() -> None:
    audio, visual = normal(0, 5, 8), normal(1, 5, 2, 3, 8)
    listener, watcher = AudioVisualNet(8, 4, "audio"), AudioVisualNet(8, 4, "visual")
    assert listener(audio, visual).logits.equal(listener(audio=audio).logits)
    assert watcher(audio, visual).logits.equal(watcher(visual=visual).logits)
    assert not any("visual" in name or "attn" in name for name in listener.state_dict())
    assert not any("audio" in name or "attn" in name for name in watcher.state_dict())


def test_missing_or_misshapen_inputs_are_refused() -> None:
    network = AudioVisualNet(8, 4)
    with pytest.raises(ValueError, match="modality 'audio-visual' needs visual"):
        network(audio=torch.zeros(2, 8))
    with pytest.raises(ValueError, match="needs audio"):
        network(visual=torch.zeros(2, 3, 4, 8))
    with pytest.raises(ValueError, match=r"visual must be \(B,L,S,D\) with D = 8, not \(2, 12, 8\)"):
        network(torch.zeros(2, 8), torch.zeros(2, 12, 8))
    with pytest.raises(ValueError, match="D = 8"):
        network(torch.zeros(2, 7), torch.zeros(2, 3, 4, 8))


@pytest.mark.parametrize("modality", BOTH)
def test_growing_keeps_what_was_learnt(modality: str) -> None:
    audio, visual = normal(0, 5, 8), normal(1, 5, 2, 3, 8)
    network = AudioVisualNet(8, 4, modality)
    before = network(audio, visual).logits
    torch.manual_seed(3)
    network.grow(7)
    after = network(audio, visual).logits
    assert after.shape == (5, 7)
    torch.testing.assert_close(after[:, :4], before)
    bound = 1 / math.sqrt(8)
    new = network.classifier.weight[4:]
    assert (new.abs() <= bound).all()
    assert new.count_nonzero() == new.numel()
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_growing_depends_on_the_seed_only_and_never_shrinks() -> None:
    first, second = AudioVisualNet(8, 4), AudioVisualNet(8, 4)
    for network in (first, second):
        torch.manual_seed(11)
        network.grow(6)
    assert first.classifier.weight[4:].equal(second.classifier.weight[4:])
    with pytest.raises(ValueError, match="cannot shrink"):
        first.grow(5)


def test_autocast_gives_float32_features_and_attention() -> None:
    network, audio, visual = AudioVisualNet(16, 4), normal(0, 5, 16), normal(1, 5, 2, 3, 16)
    exact = network(audio, visual)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = network(audio, visual)
    for name in ("audio", "visual", "spatial_attention", "temporal_attention"):
        assert getattr(fast, name).dtype == torch.float32
        torch.testing.assert_close(getattr(fast, name), getattr(exact, name), rtol=0.05, atol=0.02)
    torch.testing.assert_close(fast.logits.float(), exact.logits, rtol=0.05, atol=0.03)


# Input scaling.


def fitted(audio: Tensor | None, visual: Tensor | None) -> InputScaler:
    channels = [None if features is None else features.shape[-1] for features in (audio, visual)]
    scaler = InputScaler(*channels)
    scaler.fit(audio, visual)
    return scaler


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-3, 2))
def test_each_channel_is_standardised_whatever_its_scale(seed: int, log_scale: float, log_mean: float) -> None:
    audio = (normal(seed, 40, 6) + 10**log_mean) * 10**log_scale
    visual = normal(seed + 1, 40, 2, 3, 12) * torch.linspace(0.5, 2, 12) * 10**log_scale
    sound, sight = fitted(audio, visual)(audio, visual)
    assert sound is not None
    assert sight is not None
    assert sound.shape == (40, 6)
    tolerance = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(sound.mean(0), torch.zeros(6), **tolerance)
    torch.testing.assert_close(sound.std(0, correction=0), torch.ones(6), **tolerance)
    tokens = sight.reshape(-1, 12)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(12), **tolerance)
    torch.testing.assert_close(tokens.std(0, correction=0), torch.ones(12), **tolerance)


def test_dead_channels_stay_small() -> None:
    audio = normal(0, 50, 8)
    audio[:, 2] = 5.0
    audio[:, 3] *= 1e-7
    later = audio.clone()
    later[:, 2] += 0.1
    (scaled, _) = fitted(audio, None)(later)
    assert scaled is not None
    assert scaled.isfinite().all()
    assert scaled[:, 2:4].abs().max() < 20
    constant = torch.full((4, 3), 2.5)
    (scaled, _) = fitted(constant, None)(constant)
    assert scaled is not None
    assert scaled.count_nonzero() == 0


def test_statistics_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    visual = (normal(0, 11, 2, 3, 5) * 3 + 100).double()
    monkeypatch.setattr("mcil.models.inputs._CHUNK", 70)
    scaler = fitted(None, visual)
    tokens = visual.reshape(-1, 5)
    torch.testing.assert_close(scaler.get_buffer("visual_mean"), tokens.mean(0).float())
    scale = 1 / tokens.std(0, correction=0).float()
    torch.testing.assert_close(scaler.get_buffer("visual_scale"), scale, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_stored_dtypes_become_float32(dtype: torch.dtype) -> None:
    audio, visual = normal(0, 20, 4).to(dtype), normal(1, 20, 2, 2, 6).to(dtype)
    for scaler in (fitted(audio, visual), InputScaler(4, 6, "none")):
        sound, sight = scaler(audio, visual)
        assert sound is not None
        assert sight is not None
        assert (sound.dtype, sight.dtype) == (torch.float32, torch.float32)


def test_none_changes_nothing() -> None:
    audio, visual = normal(0, 5, 4), normal(1, 5, 2, 3, 6)
    scaler = InputScaler(4, 6, "none")
    scaler.fit(audio, visual)
    sound, sight = scaler(audio, visual)
    assert sound is not None
    assert sound.equal(audio)
    assert sight is not None
    assert sight.equal(visual)


def test_one_modality_needs_nothing_of_the_other() -> None:
    scaler = fitted(None, normal(0, 5, 2, 3, 6))
    assert scaler()[0] is None
    assert set(scaler.state_dict()) == {"visual_mean", "visual_scale"}
    with pytest.raises(ValueError, match="audio features must have 0 channels"):
        scaler(audio=normal(0, 5, 6))


def test_later_tasks_pass_through_the_first_tasks_buffers_also_after_saving() -> None:
    first, later = normal(0, 30, 4), normal(1, 30, 4) * 9 + 4
    scaler, restored = fitted(first, None), InputScaler(4, None)
    expected = (later - first.mean(0)) / first.std(0, correction=0)
    restored.load_state_dict(scaler.state_dict())
    for each in (scaler, restored):
        (scaled, _) = each(later)
        torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-4)
    assert not list(scaler.parameters())


def test_scaling_mistakes_are_refused_or_seen() -> None:
    with pytest.raises(McilError, match="normalize must be one of first-task, none, not 'last'"):
        InputScaler(4, None, "last")
    with pytest.raises(ValueError, match="at least one modality"):
        InputScaler(None, None)
    scaler = InputScaler(4, None)
    (unfitted, _) = scaler(torch.zeros(2, 4))
    assert unfitted is not None
    assert unfitted.isnan().all()
    for features in (None, torch.zeros(0, 4), torch.zeros(3, 5)):
        with pytest.raises(ValueError, match="audio features of 4 channels"):
            scaler.fit(features)
    broken = torch.zeros(3, 4)
    broken[1, 2] = math.inf
    with pytest.raises(McilError, match="audio features are not all finite"):
        scaler.fit(broken)


def test_sound_may_have_another_width_than_the_tokens() -> None:
    audio, visual = normal(0, 5, 7), normal(1, 5, 2, 3, 4)
    network = AudioVisualNet(4, 3, "audio-visual", audio_width=7)
    outputs = network(audio, visual)
    assert outputs.logits.shape == (5, 3)
    assert outputs.fused.shape == (5, 4)
    assert outputs.spatial_attention is not None
    assert outputs.spatial_attention.shape == visual.shape
    assert not network(audio.flip(0), visual).logits.allclose(outputs.logits)
    with pytest.raises(ValueError, match=r"audio must be \(B,D\) or \(B,T,D\) with D = 7"):
        network(normal(0, 5, 4), visual)
