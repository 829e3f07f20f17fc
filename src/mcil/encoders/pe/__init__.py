"""Perception Encoders: the picture tower PE-Core and the sound encoder of PE-AV and PE-A-Frame.

Bolya et al., "Perception Encoder: The best visual embeddings are not at the output of the network", 2025
(arXiv 2504.13181); PE-AV: arXiv 2512.19687.
"""

from mcil.encoders.pe.encoder import pe
from mcil.encoders.pe.load import build_tower, plan_tower
from mcil.encoders.pe.tower import PeTower

__all__ = ["PeTower", "build_tower", "pe", "plan_tower"]
