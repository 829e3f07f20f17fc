"""Networks that read encoded clips, and what they are composed of."""

from mcil.models.attention import audio_guided_attention
from mcil.models.base import Network
from mcil.models.classifiers import LinearClassifier, ProxyClassifier, class_means, nearest_mean_logits
from mcil.models.inputs import InputScaler
from mcil.models.networks import AudioVisualNet

__all__ = [
    "AudioVisualNet",
    "InputScaler",
    "LinearClassifier",
    "Network",
    "ProxyClassifier",
    "audio_guided_attention",
    "class_means",
    "nearest_mean_logits",
]
