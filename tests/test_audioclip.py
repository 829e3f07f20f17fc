"""AudioCLIP: its spectrogram, attention, files of weights and frozen encoders; small random towers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_towers
from golden import hash_fill
from mcil.encoders import ENCODERS
from mcil.encoders.audioclip import load_audioclip, sixteen_bit
from mcil.encoders.audioclip.esresnext import StageAttention
from mcil.encoders.audioclip.fbsp import FBSP, split_frames
from mcil.errors import McilError
from mcil.files import sha256
from test_encoders import brightening, check_contract, clip_of, tone, write_video, write_wave

GOLDEN = json.loads((Path(__file__).parent / "golden" / "clip.json").read_text())


def check(actual, golden):
    assert list(actual.shape) == golden["shape"]
    hash_fill.check(actual, golden["first"], golden["mean"], golden["l2"])


def test_frames_are_the_published_ones():
    frames = split_frames(torch.arange(1.0, 21.0)[None], 6, 4)
    assert frames.tolist() == [[[*range(i, i + 6)] for i in (0, 4, 8, 12)] + [[16, 17, 18, 19, 20, 0]]]
    assert split_frames(torch.zeros(1, 220500), 1654, 561).shape == (1, 392, 1654)


@given(samples=st.integers(1, 60), length=st.integers(1, 20), hop=st.integers(1, 25))
@settings(deadline=None)
def test_frames_follow_their_definition(samples, length, hop):
    sound = torch.arange(1.0, samples + 1)
    count = 1 if samples <= length else 1 + -(-(samples - length) // hop)
    missing = (count - 1) * hop + length - samples
    padded = [0.0] * (missing // 2) + sound.tolist() + [0.0] * (missing - missing // 2)
    expected = [padded[i * hop : i * hop + length] for i in range(count)]
    assert split_frames(sound[None], length, hop)[0].tolist() == expected


def test_wavelets_are_the_published_ones():
    fbsp = hash_fill.fill(FBSP(9, 16), "fbsp.")
    check(fbsp.wavelets(), GOLDEN["fbsp"]["wavelets"])
    check(fbsp(hash_fill.inputs("x", (2, 3, 16))), GOLDEN["fbsp"]["output"])


def test_wavelets_begin_as_a_fourier_transform():
    wavelets = FBSP(1025, 2048).wavelets().detach()
    expected = GOLDEN["fbsp"]["default"]
    check(wavelets, expected)
    assert float(wavelets.norm()) == pytest.approx(expected["l2"], rel=1e-6)
    assert float(wavelets.abs().max()) == pytest.approx(expected["absmax"], rel=1e-6)
    assert float(wavelets.mean()) == pytest.approx(expected["mean"], abs=5e-8)
    assert torch.isfinite(wavelets).all()


def test_wavelets_follow_their_equation():
    m, fb, fc = 1.7, 2.3, 3.1
    fbsp = FBSP(1, 16)
    with torch.no_grad():
        for parameter, value in ((fbsp.m, m), (fbsp.fb, fb), (fbsp.fc, fc)):
            parameter.fill_(value)
    times = np.pi * np.linspace(-1, 1, 16)
    spline = (np.sinc(fb * times / m / np.pi)).astype(complex) ** m
    expected = np.sqrt(fb) * spline * np.exp(-1j * fc * times) / 4
    actual = torch.view_as_complex(fbsp.wavelets().detach())[0].numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_wavelet_without_bandwidth_is_finite():
    fbsp = FBSP(3, 16)
    with torch.no_grad():
        fbsp.fb.copy_(torch.tensor([0.0, 1.0, 2.0]))
    assert torch.isfinite(fbsp.wavelets()).all()


def test_attention_is_the_published_one():
    attention = hash_fill.fill(StageAttention(4, 6, (3, 1)), "att.")
    check(attention(hash_fill.inputs("xa", (2, 4, 10, 9)), (5, 4)), GOLDEN["attention"])


@torch.inference_mode()
def test_any_sound_gives_finite_numbers():
    tower = tiny_towers.audio()
    for sound in (torch.zeros(1, 3000), torch.full((1, 50), 32767.0), 3e4 * torch.sin(torch.arange(9000.0))[None]):
        assert torch.isfinite(tower(sound)).all()
    assert tower(torch.zeros(1, 1)).shape == (1, tiny_towers.EMBED)


@torch.inference_mode()
def test_the_spectrogram_is_float32_in_any_precision():
    tower, sound = tiny_towers.audio(), hash_fill.inputs("sound", (1, 5000), 9000)
    exact = tower.spectrogram(sound)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(tower.spectrogram(sound), exact, rtol=0, atol=0)


def test_a_rising_tone_climbs_through_the_bands():
    """Low tones are loudest in the first band ("red"), high ones in the last, at rising frequencies."""
    tower = tiny_towers.audio(hop=50)
    with torch.no_grad():
        tower.fbsp.load_state_dict(FBSP(65, 128).state_dict())
    loudest = []
    for wave in (5, 15, 30, 45, 58):  # waves in 128 samples
        sound = 20000 * torch.sin(2 * torch.pi * wave * torch.arange(1000) / 128)[None]
        levels = tower.spectrogram(sound)[0, :, :, 5]
        loudest.append(int(levels.flatten().argmax()))
    assert loudest == [5, 15, 30, 45, 58]


def test_sounds_become_16_bit_samples_of_one_length():
    sound = np.array([0.5, -1.0, 1.0, 1.5, 1 / 32768], np.float32)
    assert sixteen_bit(sound, 7).tolist() == [16384, -32768, 32767, 32767, 1, 0, 0]
    assert sixteen_bit(sound, 2).tolist() == [16384, -32768]
    assert sixteen_bit(np.zeros(0, np.float32)).shape == (220500,)


# files of weights


@pytest.fixture(scope="module")
def towers():
    """With as many blocks as the published ones have, so with all their names."""
    return tiny_towers.audio((3, 4, 6, 3)), tiny_towers.resnet((3, 4, 6, 3)), tiny_towers.text(12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, towers):
    folder = tmp_path_factory.mktemp("audioclip")
    state = tiny_towers.state(*towers)
    assert len(state) == 861
    torch.save(state, folder / "AudioCLIP-Full-Training.pt")
    tiny_towers.write_vocabulary(folder)
    return folder


@torch.inference_mode()
def test_the_published_file_becomes_the_same_towers(folder, towers):
    loaded = load_audioclip(folder)
    audio, visual, text = towers
    assert loaded.sha256 == sha256(folder / "AudioCLIP-Full-Training.pt")
    expected = {"visual-text": np.exp(3.0), "audio-visual": np.exp(4.0), "audio-text": 100.0}
    assert loaded.scales == pytest.approx(expected)
    sound, image = hash_fill.inputs("sound", (2, 9000), 9000), torch.rand(2, 3, 64, 64)
    ids = loaded.tokenizer(["a dog", "two cats"])
    for ours, theirs, inputs in (
        (audio, loaded.audio, sound),
        (visual, loaded.visual, image),
        (text, loaded.text, ids),
    ):
        assert not theirs.training
        assert not any(parameter.requires_grad for parameter in theirs.parameters())
        torch.testing.assert_close(theirs(inputs), ours(inputs), rtol=1e-4, atol=1e-4)
    assert load_audioclip(folder / "AudioCLIP-Full-Training.pt").sha256 == loaded.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("audio.att3.bn.running_var"), "lacks att3.bn.running_var and 0 more"),
        (lambda s: s.pop("audio.fc.weight"), "lacks audio.fc.weight"),
        (lambda s: s.pop("logit_scale_at"), "lacks logit_scale_at"),
        (lambda s: s.update({"audio.extra": torch.ones(1)}), "holds extra and 0 more, unknown here"),
        (lambda s: s.update({"audio.fc.bias": torch.ones(527)}), "size mismatch for fc.bias"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, folder, change, message):
    state = torch.load(folder / "AudioCLIP-Full-Training.pt")
    change(state)
    torch.save(state, tmp_path / "x.pt")
    tiny_towers.write_vocabulary(tmp_path)
    with pytest.raises(McilError, match=message) as caught:
        load_audioclip(tmp_path)
    assert str(tmp_path / "x.pt") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_classifier_of_audioset_is_refused(tmp_path, towers):
    torch.save(towers[0].state_dict(), tmp_path / "ESRNXFBSP.pt")
    with pytest.raises(McilError, match=r"audio tower only.*give AudioCLIP-Full-Training\.pt") as caught:
        ENCODERS["audioclip"](weights=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_weights_say_how_to_get_them():
    with pytest.raises(McilError, match=r"no file or folder nothing.*download AudioCLIP-Full-Training\.pt from"):
        load_audioclip("nothing")


# frozen encoders


@torch.inference_mode()
def test_the_encoders_keep_the_contract(tmp_path, folder, towers):
    write_wave(tmp_path / "a.wav", tone(1.0, rate=44100), rate=44100)
    write_video(tmp_path / "v.mp4", brightening())
    clip = clip_of(tmp_path, audio="a.wav", video="v.mp4")
    audio, visual, text = ENCODERS["audioclip"](weights=str(folder), device="cpu")
    heard = check_contract(audio, clip)
    samples = np.zeros((1, 220500), np.float32)
    samples[0, :44100] = np.trunc(np.clip(tone(1.0, rate=44100), -1, 1) * 32767)
    np.testing.assert_allclose(audio.prepare(clip), samples[0], atol=1)
    torch.testing.assert_close(torch.from_numpy(heard), towers[0](torch.from_numpy(samples))[0], rtol=0.02, atol=0.02)
    assert check_contract(visual, clip).shape == (1, 1, tiny_towers.EMBED)
    assert text.encode(["a cat", "a dog"]).shape == (2, tiny_towers.EMBED)
    assert {encoder.card()["name"] for encoder in (audio, visual, text)} == {"audioclip"}
    assert ENCODERS["audioclip"](**text.card()["options"])[2].card() == text.card()
