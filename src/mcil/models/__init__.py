"""Networks that read encoded clips, and what they are composed of."""

from mcil.models.attention import audio_guided_attention
from mcil.models.inputs import InputScaler
from mcil.models.networks import AudioVisualNet

__all__ = ["AudioVisualNet", "InputScaler", "audio_guided_attention"]
