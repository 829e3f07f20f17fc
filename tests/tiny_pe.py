"""Small random Perception Encoders, files of their weights with the published names, and clips to encode."""

import json
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    PeAudioConfig,
    PeAudioEncoder,
    PeAudioEncoderConfig,
    PeAudioFrameLevelModel,
    PeAudioModel,
    PeAudioVideoConfig,
    PeAudioVideoEncoderConfig,
    PeAudioVideoModel,
    PeVideoEncoderConfig,
    ViTConfig,
)

from command import call
from mcil.data.manifest import write_manifest
from mcil.data.store import FeatureStore
from mcil.encoders.pe import PeTower
from mcil.learner import Learner
from mcil.training import TrainingOptions
from mcil.types import Batch, ClipRecord

SIZE, PATCH, WIDTH, LAYERS, EMBED = 32, 8, 64, 3, 24
HOP, HIDDEN, CODEBOOK = 1920, 32, 8
TRUNK = {
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 16,
}
DAC = {
    "encoder_hidden_size": 2,
    "downsampling_ratios": [2, 8, 10, 12],
    "codebook_dim": CODEBOOK,
    "sampling_rate": 48000,
    "decoder_hidden_size": 16,
    "n_codebooks": 2,
    "codebook_size": 16,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "pad_token_id": 0,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def randomised(module, seed=0):
    """Give every parameter its own numbers, so that none is a one, a zero or like another."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("alpha") or (name.endswith("weight") and parameter.ndim == 1):
            parameter.data = 1 + 0.2 * noise
        else:
            # Small enough at convolutions that what a deep codec computes stays near one.
            scale = 0.5 if parameter.ndim == 3 else 1.0
            parameter.data = noise * (0.1 if parameter.ndim == 1 else scale * parameter[0].numel() ** -0.5)
    return module.eval().requires_grad_(False)


def tower(width=WIDTH, heads=1, class_token=True, seed=0):
    return randomised(PeTower(SIZE, PATCH, width, LAYERS, heads, 2 * width, EMBED, class_token), seed)


def tower_state(made, prefix="visual."):
    return {prefix + name: value.clone() for name, value in made.state_dict().items()}


def write_tower(folder: Path, made=None, name="PE-Core-L14-336.pt") -> Path:
    """Write a file of PE-Core as published: the picture tower beside parts of a text tower."""
    folder.mkdir(parents=True, exist_ok=True)
    state = tower_state(made or tower())
    torch.save({**state, "token_embedding.weight": torch.zeros(3, 2), "logit_scale": torch.tensor(1.0)}, folder / name)
    return folder


def sound_config():
    return PeAudioEncoderConfig(dac_config=DAC, **TRUNK)


def sound_model(kind="frame"):
    """A model of transformers with a small sound encoder: "encoder", "audio", "frame" or "av"."""
    audio = sound_config()
    if kind == "encoder":
        model = PeAudioEncoder(audio)
    elif kind == "av":
        vision = ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
            num_labels=12,
        )
        video = PeVideoEncoderConfig(vision_config=vision, **TRUNK)
        joint = PeAudioVideoEncoderConfig(audio_config=audio, video_config=video, **TRUNK)
        model = PeAudioVideoModel(PeAudioVideoConfig(text_config=TEXT, audio_video_config=joint))
    else:
        kinds = {"audio": PeAudioModel, "frame": PeAudioFrameLevelModel}
        model = kinds[kind](PeAudioConfig(text_config=TEXT, audio_config=audio))
    return randomised(model)


def encoder_of(model):
    """The sound encoder within what :func:`sound_model` makes."""
    model = getattr(model, "audio_model", model)
    return getattr(model, "audio_encoder", model)


def write_sound(folder: Path, kind="frame") -> Path:
    sound_model(kind).save_pretrained(folder)
    return folder


def write_sound_state(folder: Path, state, config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_clip(path: Path, seed: int, seconds=1.0, sound=True) -> Path:
    """Write an mp4 of 8 frames a second of noise around one colour and, if ``sound``, a tone; both are of the seed."""
    random = np.random.default_rng(seed)
    colour, frequency = random.integers(40, 215, 3), random.uniform(200, 2000)
    frames = np.clip(colour + random.normal(0, 20, (max(1, round(8 * seconds)), 32, 48, 3)), 0, 255).astype(np.uint8)
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=8)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(frame)
            image.pts = number
            container.mux(video.encode(image))
        container.mux(video.encode())
        if audio:
            wave = 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * 16000)) / 16000).astype(np.float32)
            for start in range(0, len(wave), 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], "fltp", "mono")
                frame.sample_rate, frame.pts = 16000, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def make_store(root: Path, encoders) -> FeatureStore:
    """Extract with the command a store of 4 classes of 4 clips of real mp4 files: the last of each class is shorter."""
    records = []
    for number in range(16):
        name = f"{number}.mp4"
        write_clip(root / name, number // 4, seconds=0.4 if number % 4 == 3 else 1.0)
        split = "test" if number % 4 == 3 else "train"
        records.append(ClipRecord(id=str(number), label="abcd"[number // 4], split=split, audio=name, video=name))
    write_manifest(root / "clips.csv", records)
    said = call(f"extract {root / 'clips.csv'} --encoders '{json.dumps(encoders)}' --out {root / 'store'} --jobs 1")
    assert said.code == 0, said
    return FeatureStore(root / "store")


def learn_two_tasks(store: FeatureStore, method: str, modality: str, **options) -> np.ndarray:
    """Learn classes a, b, then c, d of :func:`make_store`; return the labels that the test clips are given."""
    training = TrainingOptions(epochs=2, batch_size=4, protocol="last", learning_rate=0.01, device="cpu")
    learner = Learner(method, options, memory=4, modality=modality, training=training, encoders=store.card["encoders"])
    rows = np.arange(16)

    def batch(chosen) -> Batch:
        sounds, pictures = (store.read(name, chosen).float() for name in ("audio", "visual"))
        return Batch(sounds if "audio" in modality else None, pictures, torch.from_numpy(chosen // 4))

    for first in (0, 2):
        chosen = rows[(rows // 4 >= first) & (rows // 4 < first + 2) & (rows % 4 < 3)]
        learner.learn(batch(chosen), "abcd"[first : first + 2])
    test = batch(rows[rows % 4 == 3])
    return learner.predict(test.audio, test.visual).labels.numpy()
