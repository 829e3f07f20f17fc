"""Encoders: frozen functions from a clip to arrays. One file per family; see ``docs/encoders.md``."""

from mcil.encoders.base import ENCODERS, FACTS, AnyEncoder, Encoder, Facts, TextEncoder
from mcil.encoders.create import create_encoders
from mcil.encoders.describe import describe_encoders

__all__ = ["ENCODERS", "FACTS", "AnyEncoder", "Encoder", "Facts", "TextEncoder", "create_encoders", "describe_encoders"]
