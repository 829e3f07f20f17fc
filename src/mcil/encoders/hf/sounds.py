"""Sounds through models of transformers; their own feature extractors prepare them, on numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcil.encoders.base import Device, Floats
from mcil.encoders.dense import DenseAudio, Origin, check_seconds, chosen_layers
from mcil.encoders.hf.model import CLAP, UNFIT, Source, input_name, load, read_source, sketch, states, stored_settings
from mcil.errors import McilError, reason

AST = "audio-spectrogram-transformer"
AST_HOP = 160  # samples from one column of its spectrogram to the next
SHORTEST = 0.1  # seconds; a shorter sound gets zeros behind it
CHUNK = 8  # sounds that pass through a tower at once


class Listener:
    """A feature extractor of transformers, and what it makes of sounds."""

    def __init__(self, source: Source) -> None:
        self._extractor = _extractor(source)
        self.rate = int(self._extractor.sampling_rate)
        self._options: dict[str, Any] = {}
        if source.kind == CLAP:
            # Which filter bank goes with the weights; nothing is cut at random, since no sound is too long.
            self._options["truncation"] = "fusion" if source.config.enable_fusion else "rand_trunc"
        self._name = input_name(source)
        self._fused = source.kind == CLAP and source.config.enable_fusion
        # Samples that the extractor fills up to, None where it takes a sound as long as it is.
        window = getattr(self._extractor, "n_samples", None) or getattr(self._extractor, "nb_max_samples", None)
        if source.kind == AST:
            window = int(self._extractor.max_length) * AST_HOP
        self.window: int | None = window

    def __call__(self, sounds: Sequence[Floats], device: torch.device) -> dict[str, Tensor]:
        """Return what the model is called with for sounds (n,), one, or several where there is a window."""
        found = self._extractor(list(sounds), sampling_rate=self.rate, return_tensors="pt", **self._options)
        inputs = {self._name: found[self._name].float().to(device)}
        if self._fused:  # no sound is longer than the window
            inputs["is_longer"] = torch.zeros(len(sounds), 1, dtype=torch.bool)
        return inputs


class SoundTower(nn.Module):
    """A model's tokens over time: sounds (n_b,) to (T_b,D) each; layers side by side."""

    def __init__(self, source: Source, model: nn.Module, blocks: tuple[int, ...], depth: int) -> None:
        super().__init__()
        self.model, self._source, self._blocks, self._depth = model, source, blocks, depth
        self._listen = Listener(source)

    def forward(self, sounds: Sequence[Floats]) -> list[Tensor]:
        """See the class."""
        device = next(self.model.parameters()).device
        if self._listen.window is None:  # each by itself: what stands beside it changes nothing
            return [self._tokens(self._listen([sound], device))[0] for sound in sounds]
        found: list[Tensor] = []
        for start in range(0, len(sounds), CHUNK):
            some = sounds[start : start + CHUNK]
            tokens = self._tokens(self._listen(some, device))
            step = self._listen.window / tokens.shape[1]
            if self._source.kind == AST:
                step = AST_HOP * self._source.config.time_stride
            # Only the tokens that the sound covers.
            found += [clip[: math.ceil(len(sound) / step)] for clip, sound in zip(tokens, some, strict=True)]
        return found

    def _tokens(self, inputs: dict[str, Tensor]) -> Tensor:
        several = self._blocks != (self._depth,)
        found = steps(self._source, states(self._source, self.model, inputs, several))
        return torch.cat([found[block - 1] for block in self._blocks] if several else found, dim=-1)


class HfAudio(DenseAudio):
    """A model of transformers that reads sounds, behind the encoder interface.

    Args:
        source: the model.
        licence: of its weights.
        seconds, steps, layers, device, options: see :class:`DenseAudio` and :func:`chosen_layers`.
    """

    def __init__(
        self,
        source: Source,
        licence: str,
        seconds: float,
        steps: int,
        layers: list[int] | None,
        device: Device,
        options: dict[str, Any],
    ) -> None:
        listen = Listener(source)
        check_seconds(source.name, seconds, listen.rate)
        if listen.window is not None and seconds * listen.rate > listen.window:
            most = listen.window / listen.rate
            raise McilError(f"{source.name}: seconds must be at most {most:g}, which is what this model reads")
        widths = _measure(source, listen, seconds)
        self.blocks, self.depth = chosen_layers(source.name, layers, len(widths)), len(widths)
        width = sum(widths[block - 1] for block in self.blocks)
        says = f"tokens of block {', '.join(map(str, self.blocks))} of {self.depth} over time"
        origin = Origin(source.name, str(options["weights"]), source.weights.revision, licence, says)
        super().__init__(origin, listen.rate, seconds, steps, width, device, options)
        self.weights = source.weights

    def load(self) -> nn.Module:
        """See :meth:`TorchEncoder.load`."""
        source = read_source(self.name, self.weights)
        return SoundTower(source, load(source), self.blocks, self.depth)

    def tokens(self, waveforms: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """See :meth:`DenseAudio.tokens`."""
        tower, _ = self.tower()
        shortest = math.ceil(SHORTEST * self.rate)
        sounds = [wave[:length].numpy() for wave, length in zip(waveforms, lengths, strict=True)]
        found: list[Tensor] = tower([np.pad(sound, (0, max(shortest - len(sound), 0))) for sound in sounds])
        return found


def steps(source: Source, found: list[Tensor]) -> list[Tensor]:
    """Turn what blocks say into tokens over time (B,T,D), as many as the last one has: frequencies are averaged."""
    if source.kind == AST:
        config = source.config
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        # Two summary tokens, then all steps of the lowest band of frequencies, of the next one, ...
        return [state[:, 2:].reshape(len(state), bands, -1, state.shape[-1]).mean(dim=1) for state in found]
    if source.kind == CLAP:
        # The last map is (B,D,bands,time). Those below are the picture that the spectrogram was folded into: its
        # pieces of time stand below each other.
        pieces = source.config.spec_size // source.config.num_mel_bins
        *below, last = found
        folded = [state.reshape(*state.shape[:2], pieces, -1, state.shape[3]).mean(dim=3).flatten(2) for state in below]
        length = last.shape[-1]
        return [*(F.adaptive_avg_pool1d(state, length).mT for state in folded), last.mean(dim=2).mT]
    return found


def _extractor(source: Source) -> Any:
    """Return the feature extractor in the folder, or the one that was published with this type of model."""
    from transformers import ASTFeatureExtractor, AutoFeatureExtractor, ClapFeatureExtractor

    folder = source.weights.folder
    try:
        if stored_settings(folder) is not None:
            auto: Any = AutoFeatureExtractor
            return auto.from_pretrained(folder, local_files_only=True)
    except UNFIT as error:
        raise McilError(
            f"{source.name}: {folder / 'preprocessor_config.json'} cannot be read as a feature extractor; give the "
            "file that was published with the weights"
        ) from error
    if source.kind == AST:
        made: Any = ASTFeatureExtractor
        return made(num_mel_bins=source.config.num_mel_bins, max_length=source.config.max_length)
    if source.kind == CLAP:
        return ClapFeatureExtractor()
    raise McilError(
        f"{source.name}: {folder} lacks preprocessor_config.json, and nothing is known here of models of type "
        f"'{source.kind}'; give the folder that it was published in"
    )


def _measure(source: Source, listen: Listener, seconds: float) -> list[int]:
    """Return the width of each block's tokens."""
    config = source.config
    try:
        silence = np.zeros(max(round(seconds * listen.rate), math.ceil(SHORTEST * listen.rate)), np.float32)
        inputs = listen([silence], torch.device("meta"))
        if "is_longer" in inputs:  # which sounds are long cannot be asked without data; shapes are the same without
            config = type(config).from_dict({**config.to_dict(), "enable_fusion": False})
            inputs = {"input_features": inputs["input_features"][:, :1]}
        plain = Source(source.name, source.weights, source.whole, config)
        with torch.inference_mode():
            found = steps(plain, states(plain, sketch(plain), inputs, several=True))
    except UNFIT as error:
        raise source.fail(f"which gives no tokens for a sound ({reason(error)})") from error
    if any(state.shape[:2] != found[-1].shape[:2] or state.ndim != 3 for state in found):
        raise source.fail("whose tokens have no common time; give one that keeps its steps")
    return [state.shape[-1] for state in found]
