"""Models of the library transformers behind the encoder interface: families by name, and any other by ``hf:NAME``."""

from mcil.encoders.hf.families import ast, clap, dinov2, hf, siglip2, vjepa2

__all__ = ["ast", "clap", "dinov2", "hf", "siglip2", "vjepa2"]
