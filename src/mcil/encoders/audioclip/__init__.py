"""AudioCLIP: sounds, pictures and texts in one space, in plain torch with the names of the published weights.

Guzhov et al., "AudioCLIP: Extending CLIP to Image, Text and Audio", ICASSP 2022.
"""

from mcil.encoders.audioclip.encoder import audioclip
from mcil.encoders.audioclip.esresnext import ESResNeXt
from mcil.encoders.audioclip.load import AudioClipTowers, load_audioclip
from mcil.encoders.audioclip.sound import sixteen_bit

__all__ = ["AudioClipTowers", "ESResNeXt", "audioclip", "load_audioclip", "sixteen_bit"]
