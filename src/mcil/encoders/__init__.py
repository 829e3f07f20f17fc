"""Encoders: frozen functions from a clip to arrays. One file per family; see ``docs/encoders.md``."""

from mcil.encoders.base import ENCODERS, AnyEncoder, Encoder, TextEncoder
from mcil.encoders.create import create_encoders
from mcil.encoders.describe import describe_encoders

__all__ = ["ENCODERS", "AnyEncoder", "Encoder", "TextEncoder", "create_encoders", "describe_encoders"]
