"""Multi-head attention over the patches of each frame, asked by the sound of the same moment.

The network of the SAM-Audio-guided learner. A reconstruction: the paper (arXiv 2606.10887) shows that audio guides the
visual features, and its equations could not be had; these are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcil.errors import McilError
from mcil.models.attention import masked_softmax
from mcil.models.base import Network
from mcil.models.classifiers import CosineClassifier, LinearClassifier
from mcil.models.tokens import present, unit
from mcil.types import Modality, Outputs

Guidance = Literal["audio", "visual", "naive", "guided", "context"]
Positions = Literal["time-cell", "time", "none"]

# Sines and cosines of each coordinate that positions are a learnt function of.
_WAVES = 8
_POSITION_SCALE = 0.02


class HeadedAttention(nn.Module):
    """Multi-head attention of one query over a set of tokens, without a matrix product for each token.

    With n the layer norm of a token, K_h and V_h a head's projections, w = softmax over the tokens of q_h' K_h n /
    sqrt(d_h), the answer is W_o [sum w V_h n]_h. The product q_h' K_h and the sum over n come first, so that a token
    costs 4 h d operations instead of 4 d^2; nothing else differs from the usual order. Source: Vaswani et al., 2017.

    Args:
        width: d.
        heads: h, of width d / h each.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head = heads, width // heads
        self.query_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        # A bias of the keys would cancel in the softmax.
        self.key = nn.Parameter(_projection(width).view(heads, self.head, width))
        self.value = nn.Parameter(_projection(width).view(heads, self.head, width))
        self.output = nn.Linear(width, width)

    def forward(self, query: Tensor, tokens: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Ask ``tokens`` (...,S,d), as far as they are ``there`` (...,S), with ``query`` (...,d).

        Returns:
            The answer (...,d) and the weights (...,S,h), which sum to one over S, or are 0 where no token is there.
        """
        asked = self.query(self.query_norm(query)).unflatten(-1, (self.heads, self.head))
        asked = torch.einsum("...hc,hcd->...hd", asked, self.key) / math.sqrt(self.head)
        normed = self.token_norm(tokens)
        weights = masked_softmax(torch.einsum("...sd,...hd->...sh", normed, asked), there[..., None], dim=-2)
        seen = torch.einsum("...sh,...sd->...hd", weights.to(normed.dtype), normed)
        answers = torch.einsum("...hd,hcd->...hc", seen, self.value)
        return self.output(answers.flatten(-2)), weights


class _Sound(NamedTuple):
    """``steps`` (B,T,d), which of them are ``there`` (B,T), and the ``mean`` (B,d) of those."""

    steps: Tensor
    there: Tensor
    mean: Tensor


class GuidedNet(Network):
    """Score clips by sound (B,T,D_a) or (B,D_a), and tokens (B,L,S,D_v).

    With a' = W_a norm(a) + time, v' = W_v norm(v) + time + cell, for each frame j:

        q_j = mean of a' over the steps of frame j
        g_j = mean_n v'_jn + attention(q_j; v'_j1 .. v'_jS);  g_j = g_j + FFN(LN(g_j))
        u = softmax_j(<W_q mean(a'), W_k g_j> / sqrt(d));  g = sum_j u_j g_j
        f_a = relu(W_fa mean_t a');  f_v = relu(W_fv g);  z = f_a + f_v;  logits = head(z)

    ``guidance`` says who asks whom: "guided" as above; "naive" without attention, a frame being its mean token and the
    clip the mean of its frames; "context" the other way round: frames ask the steps of the sound, whose answer joins
    f_a; "audio" and "visual" have one of the two alone. Layer norms before W_a and W_v have no weights of their own, as
    those could be part of W. Absent tokens (zeros) are left out everywhere. A reconstruction of arXiv 2606.10887; ours.

    Args:
        channels: D_a and D_v, as far as they are read.
        classes: number of classes.
        guidance: see above.
        width: d.
        heads: of the attention; they divide d.
        dropout: of what attention and FFN add, in training.
        temporal: "attention" as above, or "mean" over the frames.
        join: z is the "sum" of f_a and f_v, or both "concat"enated.
        positions: what tokens are told of their place: "time-cell", "time" or "none".
        cosine: whether the head scores by the cosine times a learnt scale; else it is linear.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        classes: int,
        guidance: Guidance = "guided",
        width: int = 512,
        heads: int = 8,
        dropout: float = 0.1,
        temporal: Literal["attention", "mean"] = "attention",
        join: Literal["sum", "concat"] = "sum",
        positions: Positions = "time-cell",
        cosine: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.guidance, self.temporal, self.join = guidance, temporal, join
        self.modality: Modality = guidance if guidance == "audio" or guidance == "visual" else "audio-visual"
        self.channels = {name: channels[name] for name in ("audio", "visual") if name in self.modality}
        self.time = Place(1, width) if positions != "none" else None
        if "audio" in self.channels:
            self.audio_in = nn.Linear(channels["audio"], width)
            self.audio_out = nn.Linear(width, width)
        if "visual" in self.channels:
            self.visual_in = nn.Linear(channels["visual"], width)
            self.visual_out = nn.Linear(width, width)
            self.cell = Place(2, width) if positions == "time-cell" else None
            self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
            self.mixed = nn.Linear(2 * width, width)
        if guidance in ("guided", "context"):
            self.attention = HeadedAttention(width, heads)
        self.attends_frames = guidance == "guided" and temporal == "attention"
        if self.attends_frames:
            self.time_query, self.time_key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        fused = width * (len(self.channels) if join == "concat" else 1)
        self.classifier = CosineClassifier(fused, classes) if cosine else LinearClassifier(fused, classes)

    @property
    def classes(self) -> int:
        """Number of outputs of the classifier."""
        return self.classifier.classes

    def grow(self, classes: int, text: Tensor | None = None) -> None:
        """Enlarge the classifier; what it has learnt stays, and ``text`` is not read."""
        if classes < self.classifier.classes:
            raise ValueError(f"the classifier has {self.classifier.classes} outputs and cannot shrink to {classes}")
        self.classifier.grow(classes)

    def stem(self, audio: Tensor | None, visual: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Normalise steps and tokens, and average the tokens of a frame where no attention needs them.

        Sound comes out as (B,T,D_a). What is not read becomes None.
        """
        sound = self._checked("audio", audio)
        tokens = self._checked("visual", visual)
        if sound is not None:
            sound = normalised(sound[:, None] if sound.ndim == 2 else sound)
        if tokens is not None:
            there = present(tokens)
            tokens = normalised(tokens)
            if self.guidance in ("visual", "naive"):
                tokens = masked_mean(tokens, there, dim=2)[:, :, None]
        return sound, tokens

    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = True
    ) -> Outputs:
        """Score clips as :meth:`stem` returned them; spatial attention is (B,L,S,h), temporal (B,L,1).

        Raises:
            ValueError: a modality that the network reads is missing.
        """
        for name, clips in (("audio", audio), ("visual", visual)):
            if name in self.channels and clips is None:
                raise ValueError(f"a network of guidance '{self.guidance}' needs {name}")
        sound = self._hear(audio) if audio is not None and "audio" in self.channels else None
        if visual is None or "visual" not in self.channels:
            return self._classify(None if sound is None else sound.mean, None)
        there = present(visual)
        shown = there.any(dim=2)
        tokens = self._placed(self.visual_in(visual), shown)
        frames = masked_mean(tokens, there, dim=2)
        heard, spatial = None if sound is None else sound.mean, None
        if sound is not None and self.guidance == "guided":
            asking = steps_of_frames(sound.steps, sound.there, shown)
            answer, spatial = self.attention(asking, tokens, there)
            frames = frames + self.dropout(answer)
        elif sound is not None and self.guidance == "context":
            asked = sound.steps[:, None].expand(-1, frames.shape[1], -1, -1)
            answer, _ = self.attention(frames, asked, sound.there[:, None].expand(asked.shape[:-1]))
            heard = sound.mean + self.dropout(masked_mean(answer, shown, dim=1))
        frames = frames + self.dropout(self.mixed(self.mix(frames)))
        temporal = self._weigh(frames, shown, heard)
        pooled = (temporal[..., None].to(frames.dtype) * frames).sum(dim=1)
        outputs = self._classify(heard, pooled)._replace(pooled=pooled)
        if not need_attention or spatial is None:
            return outputs
        return outputs._replace(spatial_attention=spatial, temporal_attention=temporal[..., None])

    def _hear(self, audio: Tensor) -> _Sound:
        """Return the steps of a sound (B,T,D_a) in the width of the network, and their mean."""
        there, steps = present(audio), self.audio_in(audio)
        if self.time is not None:
            steps = steps + self.time(middles(there)[..., None])
        return _Sound(steps, there, masked_mean(steps, there, dim=1))

    def _weigh(self, frames: Tensor, shown: Tensor, heard: Tensor | None) -> Tensor:
        """Return the weights (B,L) of frames (B,L,d): attention by the sound (B,d), or the same for all ``shown``."""
        if heard is None or not self.attends_frames:
            return shown / shown.sum(dim=1, keepdim=True).clamp_min(1)
        scores = (self.time_key(frames) * self.time_query(heard)[:, None]).sum(dim=-1)
        return masked_softmax(scores / math.sqrt(frames.shape[-1]), shown, dim=1)

    def _placed(self, tokens: Tensor, shown: Tensor) -> Tensor:
        """Add what tokens (B,L,S,d) of the frames that are ``shown`` (B,L) are told of their time and cell.

        Nothing of the cell where there is one only.
        """
        if self.time is not None:
            tokens = tokens + self.time(middles(shown)[..., None])[:, :, None]
        if self.cell is not None and tokens.shape[2] > 1:
            tokens = tokens + self.cell(cells(tokens.shape[2], tokens.device))
        return tokens

    def _classify(self, heard: Tensor | None, pooled: Tensor | None) -> Outputs:
        """Project the sound and the pooled frames (B,d), as far as there are any, join and score them."""
        sound = None if heard is None else torch.relu(self.audio_out(heard))
        look = None if pooled is None else torch.relu(self.visual_out(pooled))
        features = [feature for feature in (sound, look) if feature is not None]
        fused = torch.cat(features, dim=1) if self.join == "concat" else torch.stack(features).sum(dim=0)
        return Outputs(self.classifier(fused), fused, unit(sound), unit(look), scale=self.classifier.scale)

    def _checked(self, name: str, clips: Tensor | None) -> Tensor | None:
        if name not in self.channels or clips is None:
            return None
        form, dimensions = ("(B,T,D) or (B,D)", (2, 3)) if name == "audio" else ("(B,L,S,D)", (4,))
        if clips.ndim not in dimensions or clips.shape[-1] != self.channels[name]:
            raise ValueError(f"{name} must be {form} with D = {self.channels[name]}, not {tuple(clips.shape)}")
        return clips


class Place(nn.Module):
    """A learnt function of where a token is: linear in sines and cosines of its coordinates (...,n), from 0 to 1."""

    def __init__(self, coordinates: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * _WAVES * coordinates, width) * _POSITION_SCALE)

    def forward(self, where: Tensor) -> Tensor:
        """Return (...,width)."""
        angles = (where[..., None] * torch.arange(1, _WAVES + 1, device=where.device) * math.pi).flatten(-2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.weight.dtype) @ self.weight


def check_guided(width: int, heads: int, dropout: float) -> None:
    """Check the options of a method that makes a guided network.

    Raises:
        McilError: the heads do not divide the width, or everything would be dropped.
    """
    if width % heads:
        raise McilError(f"option 'heads' must divide the width {width}, but it is {heads}")
    if dropout >= 1:
        raise McilError(f"option 'dropout' must be below 1, but it is {dropout}")


def places(count: int, device: torch.device) -> Tensor:
    """Return the centres (count) of equal parts of the line from 0 to 1."""
    return (torch.arange(count, device=device) + 0.5) / count


def cells(count: int, device: torch.device) -> Tensor:
    """Return row and column (count,2), from 0 to 1, of the cells of a square grid, row by row; else of one row."""
    side = math.isqrt(count)
    rows, columns = (side, side) if side * side == count else (1, count)
    return torch.cartesian_prod(places(rows, device), places(columns, device))


def times(there: Tensor) -> tuple[Tensor, Tensor]:
    """Return when each step or frame (B,n) begins, and how long all of a clip's last (B,1), on its time from 0 to 1.

    Those that are ``there`` (B,n) share the time evenly, so that others between or behind them change nothing.
    """
    length = 1 / there.sum(dim=1, keepdim=True).clamp_min(1)
    return (there.cumsum(dim=1) - 1) * length, length


def middles(there: Tensor) -> Tensor:
    """Return the middle of the time of each step or frame (B,n); see :func:`times`."""
    begin, length = times(there)
    return begin + length / 2


def steps_of_frames(steps: Tensor, heard: Tensor, shown: Tensor) -> Tensor:
    """Average the steps (B,T,d) that are ``heard`` (B,T) over the time of each frame that is ``shown`` (B,L): (B,L,d).

    A step counts for a frame by how much of their times overlaps; see :func:`times`. 0 where one of them is missing.
    """
    begin, length = (time[:, None] for time in times(heard))
    opens, lasts = (time[:, :, None] for time in times(shown))
    overlap = torch.minimum(begin + length, opens + lasts) - torch.maximum(begin, opens)
    share = overlap.clamp_min(0) * heard[:, None] * shown[:, :, None] / lasts
    return share.to(steps.dtype) @ steps


def masked_mean(values: Tensor, there: Tensor, dim: int) -> Tensor:
    """Return the mean of ``values`` (...,d) over ``dim`` of those that are ``there`` (...); 0 where none is."""
    weights = there / there.sum(dim=dim, keepdim=True).clamp_min(1)
    # As a product of matrices nothing of the size of the values is made in between.
    return (weights.to(values.dtype).movedim(dim, -1)[..., None, :] @ values.movedim(dim, -2)).squeeze(-2)


def normalised(tokens: Tensor) -> Tensor:
    """Return the layer norm of tokens (...,D) without weights; zeros stay zeros."""
    return F.layer_norm(tokens, tokens.shape[-1:])


def _projection(width: int) -> Tensor:
    return nn.init.xavier_uniform_(torch.empty(width, width))
