"""CLIP's modified ResNet (Radford et al. 2021, section 2.4; He et al. 2019; Zhang 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu, scaled_dot_product_attention

from mcil.encoders.tower import Adapt, Tower, adapt_stage

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, mean over stride x stride, 1x1; the shortcut is averaged in the same way where shapes change."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        outputs = planes * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, z: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B, outputs, H / stride, W / stride)."""
        update = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(z))))))
        update = self.bn3(self.conv3(avg_pool2d(update, self.stride)))
        if self.downsample is not None:
            z = self.downsample(avg_pool2d(z, self.stride))
        return relu(update + z)


class AttentionPool(nn.Module):
    """One query, the mean token, attends to itself and all tokens."""

    def __init__(self, tokens: int, width: int, heads: int, embed: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(tokens + 1, width) * width**-0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, embed)

    def forward(self, z: Tensor) -> Tensor:
        """Pool (B,C,H,W) to (B,E)."""
        tokens = z.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + self.positional_embedding
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(tokens[:, :1]), self.k_proj(tokens), self.v_proj(tokens))
        )
        pooled: Tensor = self.c_proj(scaled_dot_product_attention(query, key, value).flatten(1))
        return pooled


class ResNet(Tower):
    """Pictures (B,3,H,W), normalised, to embeddings (B,E): a place for adapters after each of the four stages.

    Attributes:
        size: H and W in pixels, a multiple of 32.
    """

    def __init__(self, size: int, layers: tuple[int, int, int, int], width: int, heads: int, embed: int) -> None:
        super().__init__()
        self.size, self.width = size, embed
        self.widths = tuple(width * 2**stage * EXPANSION for stage in range(4))
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        inputs = (width, *self.widths)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                Bottleneck(inputs[stage], width * 2**stage, 1 if stage == 0 else 2),
                *(Bottleneck(inputs[stage + 1], width * 2**stage, 1) for _ in range(layers[stage] - 1)),
            )
            for stage in range(4)
        )
        self.attnpool = AttentionPool((size // 32) ** 2, self.widths[-1], heads, embed)

    def below(self, inputs: Tensor, place: int) -> Tensor:
        """Return what enters stage ``place``: (B,C,H,W)."""
        z = inputs
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            z = relu(norm(conv(z)))
        z = avg_pool2d(z, 2)
        for stage in self._stages()[:place]:
            z = stage(z)
        return z

    def above(self, hidden: Tensor, place: int, adapt: Adapt | None = None) -> Tensor:
        """See :meth:`Tower.above`; the summary is the mean token."""
        z = hidden
        for stage, layer in enumerate(self._stages()[place:], place):
            z = adapt_stage(layer(z), stage, adapt)
        embedding: Tensor = self.attnpool(z)
        return embedding

    def _stages(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]
