"""Small random towers and files of weights with the published names, for all tests of CLIP and AudioCLIP."""

import gzip
from pathlib import Path

import torch

from golden import hash_fill
from mcil.encoders.audioclip import ESResNeXt
from mcil.encoders.clip import ResNet, TextTransformer, VisionTransformer

MERGES = ("a b", "ab c</w>", "d o", "do g</w>", "c a", "ca t</w>", "o f</w>")
VOCABULARY = 512 + len(MERGES) + 2
SIZE, EMBED = 64, 24


def vision(layers=2):
    return hash_fill.fill(VisionTransformer(SIZE, 16, 64, layers, 1, EMBED), "visual.")


def text(layers=2):
    return hash_fill.fill(TextTransformer(VOCABULARY, 77, 64, layers, 1, EMBED))


def resnet(layers=(1, 1, 1, 2)):
    return hash_fill.fill(ResNet(SIZE, layers, 8, 4, EMBED), "visual.")


def audio(layers=(1, 1, 1, 2), hop=561):
    tower = ESResNeXt(layers, width=4, groups=2, embed=EMBED, length=128, window=100, hop=hop)
    return hash_fill.fill(tower, "audio.")


def state(*towers):
    """Named weights of one file, as published: the text tower's names have no prefix."""
    prefixes = {VisionTransformer: "visual.", ResNet: "visual.", ESResNeXt: "audio.", TextTransformer: ""}
    weights = {
        prefixes[type(tower)] + name: value.clone() for tower in towers for name, value in tower.state_dict().items()
    }
    weights["logit_scale"] = torch.tensor(3.0)
    if any(isinstance(tower, ESResNeXt) for tower in towers):
        weights |= {"logit_scale_ai": torch.tensor(4.0), "logit_scale_at": torch.tensor(9.0)}
    return weights


def write_vocabulary(folder: Path, merges=MERGES) -> Path:
    path = folder / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(gzip.compress("\n".join(["header", *merges, ""]).encode()))
    return path


def write_audioclip(folder: Path) -> Path:
    """Write AudioCLIP's file with towers of one layer a stage, and a vocabulary; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    towers = resnet((1, 1, 1, 1)), text(1), audio((1, 1, 1, 1))
    torch.save(state(*towers), folder / "AudioCLIP-Full-Training.pt")
    write_vocabulary(folder)
    return folder
