"""Fusion of sound and picture: against loops over single clips, and what masking does."""

from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mcil.models.fusion import AdaptiveFusion, Concatenation, Masking, Sum, correlation

WIDTH = 12


def pairs(count: int = 20, agreement: float = 0.5, seed: int = 0, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Return unit vectors (B,E) of pictures and sounds; the more ``agreement``, the more alike those of a clip."""
    random = torch.Generator().manual_seed(seed)
    visual, other = (torch.randn(count, width, generator=random) for _ in range(2))
    return F.normalize(visual, dim=1), F.normalize(agreement * visual + (1 - agreement) * other, dim=1)


def fusion(masking: Masking = "fixed", threshold: float = 0.5, width: int = WIDTH, **options: object) -> AdaptiveFusion:
    """Return a fusion that is not what it begins as."""
    made = AdaptiveFusion(width, masking, threshold, **options)
    with torch.no_grad():
        for weight, value in ((made.visual_weight, 0.8), (made.audio_weight, 1.3), (made.sharpness, 2.0)):
            weight.fill_(value)
        assert isinstance(made.mlp[-1], nn.Linear)
        nn.init.normal_(made.mlp[-1].weight, std=0.1)
        nn.init.normal_(made.mlp[-1].bias, std=0.1)
    return made


@given(seed=st.integers(0, 1000), shift=st.floats(-3, 3), scale=st.floats(0.1, 10))
def test_correlation_is_pearson_s(seed: int, shift: float, scale: float) -> None:
    first, second = pairs(5, seed=seed)
    expected = [np.corrcoef(one, other)[0, 1] for one, other in zip(first.numpy(), second.numpy(), strict=True)]
    np.testing.assert_allclose(correlation(first, second).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(correlation(scale * first + shift, second).numpy(), expected, atol=1e-4)
    torch.testing.assert_close(correlation(first, first), torch.ones(5))


@pytest.mark.parametrize("masking", ["fixed", "calibrated", "none"])
def test_adaptive_fusion_is_that_of_a_loop_over_clips(masking: Masking) -> None:
    made, (visual, audio) = fusion(masking).eval(), pairs()
    with torch.no_grad():
        fused = made(visual, audio)
        for clip, (v, a) in enumerate(zip(visual, audio, strict=True)):
            r = np.corrcoef(v.numpy(), a.numpy())[0, 1]
            masked = masking != "none" and r < float(made.threshold)
            tokens = [0.8 * v, 1.3 * a]
            scores = [float(torch.exp(2 * (token @ v))) for token in tokens]
            attended = sum(score / sum(scores) * token for score, token in zip(scores, tokens, strict=True))
            expected = v if masked else attended + made.mlp(torch.cat([attended, tokens[1]])[None])[0]
            torch.testing.assert_close(fused.feature[clip], expected)
            assert float(fused.unmasked[clip]) == float(not masked)
    if masking == "fixed":
        assert 0 < fused.unmasked.sum() < len(visual)


def test_it_begins_with_the_attention_alone() -> None:
    made, (visual, audio) = AdaptiveFusion(WIDTH, "none"), pairs()
    told = torch.stack([torch.ones(20), (visual * audio).sum(dim=1)], dim=1).softmax(dim=1)
    torch.testing.assert_close(made(visual, audio).feature, told[:, :1] * visual + told[:, 1:] * audio)


def test_where_the_sound_is_masked_the_feature_is_the_picture_s_to_the_bit() -> None:
    made, (visual, audio) = fusion(), pairs()
    fused = made(visual, audio)
    masked = fused.unmasked == 0
    assert 0 < masked.sum() < len(visual)
    assert torch.equal(fused.feature[masked], visual[masked])
    assert (fused.feature[~masked] - visual[~masked]).abs().amax(dim=1).min() > 1e-3


def test_a_fixed_threshold_of_0_8_masks_nearly_all_sounds_of_another_space() -> None:
    visual, audio = pairs(1000, agreement=0.0, width=64)
    assert fusion("fixed", 0.8, width=64)(visual, audio).unmasked.mean() < 0.01


def test_a_calibrated_threshold_comes_to_mask_the_share_that_is_wanted() -> None:
    for share in (0.1, 0.4):
        made = fusion("calibrated", share=share).train()
        for seed in range(400):
            made(*pairs(32, seed=seed))
        made.eval()
        held = float(made.threshold)
        masked = 1 - made(*pairs(4000, seed=1000)).unmasked.mean()
        assert masked == pytest.approx(share, abs=0.04)
        assert float(made.threshold) == held  # moved in training only


def test_a_calibrated_threshold_stays_once_its_task_is_over() -> None:
    made = fusion("calibrated").train().requires_grad_(False)
    before = made.threshold.clone()
    made(*pairs(agreement=-1.0))
    assert torch.equal(made.threshold, before)
    assert "threshold" in made.state_dict()


def test_only_a_learnt_threshold_is_a_weight_and_it_gets_a_gradient() -> None:
    for masking in get_args(Masking):
        made = fusion(masking)
        made(*pairs()).feature.square().sum().backward()
        found = dict(made.named_parameters()).get("threshold")
        assert (found is not None) is (masking == "learned")
        assert found is None or (found.grad is not None and found.grad.abs() > 1e-4)
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_a_learnt_threshold_has_a_soft_edge() -> None:
    made, (visual, audio) = fusion("learned"), pairs()
    for threshold in (0.0, 0.3):
        made.threshold.data.fill_(threshold)
        expected = torch.sigmoid((correlation(visual, audio) - threshold) / 0.1)
        torch.testing.assert_close(made(visual, audio).unmasked, expected)


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.8])
def test_only_a_fixed_threshold_is_the_one_that_is_given(threshold: float) -> None:
    for masking in get_args(Masking):
        expected = threshold if masking == "fixed" else 0.0
        assert float(AdaptiveFusion(WIDTH, masking, threshold).threshold.detach()) == pytest.approx(expected)


@pytest.mark.parametrize("masking", ["fixed", "learned", "calibrated"])
def test_a_batch_gate_makes_one_decision_for_a_batch(masking: Masking) -> None:
    visual, audio = pairs()
    mean = float(correlation(visual, audio).mean())
    made = fusion(masking, batch_gate=True).eval()
    for threshold, heard in ((mean - 0.01, True), (mean + 0.01, False)):
        made.threshold.data.fill_(threshold)
        unmasked = made(visual, audio).unmasked
        assert unmasked.unique().numel() == 1
        assert bool(unmasked[0] > 0.5) is heard


@pytest.mark.parametrize("masking", get_args(Masking))
def test_what_a_clip_becomes_does_not_depend_on_its_batch(masking: Masking) -> None:
    made, (visual, audio) = fusion(masking).eval(), pairs()
    together = made(visual, audio)
    for clip in range(len(visual)):
        alone = made(visual[clip : clip + 1], audio[clip : clip + 1])
        torch.testing.assert_close(alone.feature[0], together.feature[clip])
        torch.testing.assert_close(alone.unmasked[0], together.unmasked[clip])


@pytest.mark.parametrize("masking", get_args(Masking))
def test_the_gradient_is_right(masking: Masking) -> None:
    made = fusion(masking, 0.3, width=5).double().eval()
    inputs = [side.double().requires_grad_() for side in pairs(4, width=5)]
    assert torch.autograd.gradcheck(lambda *given: made(*given).feature, inputs)


def test_plain_fusions_are_what_they_are_called() -> None:
    visual, audio = pairs()
    joined, added = Concatenation(WIDTH), Sum()
    expected = torch.cat([visual, audio], dim=1) @ joined.linear.weight.T + joined.linear.bias
    torch.testing.assert_close(joined(visual, audio).feature, expected)
    assert torch.equal(added(visual, audio).feature, visual + audio)
    for made in (joined, added):
        assert torch.equal(made(visual, audio).unmasked, torch.ones(20))
