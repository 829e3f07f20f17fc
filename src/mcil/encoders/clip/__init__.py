"""CLIP: pictures and texts in one space, in plain torch with the names of OpenAI's weights.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
"""

from mcil.encoders.clip.encoder import clip
from mcil.encoders.clip.load import ClipTowers, load_clip
from mcil.encoders.clip.pixels import normalise
from mcil.encoders.clip.resnet import ResNet
from mcil.encoders.clip.text import TextTransformer
from mcil.encoders.clip.tokenizer import Tokenizer
from mcil.encoders.clip.tokens import ClipTokens
from mcil.encoders.clip.vision import VisionTransformer
from mcil.encoders.pictures import square

__all__ = [
    "ClipTokens",
    "ClipTowers",
    "ResNet",
    "TextTransformer",
    "Tokenizer",
    "VisionTransformer",
    "clip",
    "load_clip",
    "normalise",
    "square",
]
