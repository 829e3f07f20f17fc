"""Losses of class-incremental audio-visual learning: pure functions of tensors, each a scalar.

Equation numbers are those of Pian et al., "Audio-Visual Class-Incremental Learning", ICCV 2023. Every
function computes in float32 at least, also inside an autocast region; float64 stays float64. None of them
makes the host wait for the device. A wrong shape is a programmer's mistake and raises ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def instance_similarity(audio: Tensor, visual: Tensor, temperature: float) -> Tensor:
    """Pull the audio of a clip towards the visual of the same clip, away from the others' (I-AVSS, eq. 6).

    ``audio`` and ``visual`` (B,D) are L2-normalised features. One direction only: audio looks for visual.
    """
    return -_log_similarity(audio, visual, temperature).diagonal().mean()


def class_similarity(
    audio: Tensor,
    visual: Tensor,
    labels: Tensor,
    temperature: float,
    normalize: Literal["batch", "positives"] = "batch",
) -> Tensor:
    """Pull the audio of a clip towards the visual of every clip of its class (C-AVSS, eq. 7).

    ``audio`` and ``visual`` (B,D) are L2-normalised features, ``labels`` (B,). ``normalize`` says by what the
    sum over a clip's positives is divided: "positives", their number, is how eq. 7 reads; "batch", the batch
    size, is what the paper's reported numbers were computed with.
    """
    likelihood = _log_similarity(audio, visual, temperature)
    if labels.shape != audio.shape[:1]:
        raise ValueError(f"labels {tuple(labels.shape)} must be (B,) with B = {len(audio)}")
    positive = (labels[:, None] == labels[None, :]).to(likelihood.dtype)
    if normalize == "batch":
        return -(positive * likelihood).mean()
    if normalize == "positives":
        return -((positive * likelihood).sum(dim=1) / positive.sum(dim=1)).mean()
    raise ValueError(f"normalize must be 'batch' or 'positives', not {normalize!r}")


def attention_distillation(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """Keep the student's attention close to the teacher's (VAD, eq. 9 and 10): KL(teacher || student).

    Both are maps (B,...) of weights along ``dim``: S of a spatial map (B,L,S,D), L of a temporal one (B,L,D).
    The divergences are summed over everything else and divided by B; an empty batch gives zero.

    Maps that were rounded to a narrow type do not sum to one exactly, and over so many channels that would
    count. So the divergence is that of the maps divided by their sums, written such that no normalised copies
    are made. A teacher's zero contributes nothing; a student's counts as the smallest normal number. Where all weights
    of either map are zeros, as where a clip has no picture, there is nothing to compare, and it contributes nothing.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"the maps of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ")
    student, teacher = _widen(student), _widen(teacher)
    log_student = student.clamp_min(torch.finfo(student.dtype).tiny).log()
    divergence = F.kl_div(log_student, teacher, reduction="none").sum(dim)
    student_sum, teacher_sum = student.sum(dim), teacher.sum(dim)
    both = (student_sum > 0) & (teacher_sum > 0)
    # The sums are replaced before they divide, so that no gradient is 0 * inf.
    student_sum, teacher_sum = student_sum.where(both, 1.0), teacher_sum.where(both, 1.0)
    divergence = divergence / teacher_sum + (student_sum / teacher_sum).log()
    return divergence.where(both, 0.0).sum() / max(len(student), 1)


def separated_cross_entropy(logits: Tensor, labels: Tensor, old_classes: int) -> Tensor:
    """Cross-entropy in which old and new classes do not compete (SS-CE, eq. 12).

    ``logits`` (B,C), ``labels`` (B,). A clip of an old class (label < ``old_classes``: an exemplar) is
    classified among the old classes only, any other clip among the new ones only. The means of the two parts
    weighted by their shares of the batch, which is the mean over all clips; so either part may be empty.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} must be (B,C) and labels {tuple(labels.shape)} (B,)")
    if not 0 <= old_classes <= logits.shape[1]:
        raise ValueError(f"old_classes must be between 0 and {logits.shape[1]}, not {old_classes}")
    old_column = torch.arange(logits.shape[1], device=logits.device) < old_classes
    competes = old_column[None, :] == (labels < old_classes)[:, None]
    return F.cross_entropy(_widen(logits).masked_fill(~competes, -torch.inf), labels)


def task_distillation(student: Tensor, teacher: Tensor, task_sizes: Sequence[int], temperature: float) -> Tensor:
    """Keep the student's probabilities within each old task close to the teacher's (TKD, eq. 13).

    ``teacher`` holds logits (B,C_old), ``student`` (B,C) with C >= C_old; ``task_sizes`` is the number of
    classes of each old task, C_old together. For each old task, KL(teacher || student) of the softened
    probabilities, times the squared temperature, averaged over the batch; summed over the old tasks.
    """
    old_classes = sum(task_sizes)
    if teacher.shape != (len(student), old_classes) or student.ndim != 2 or student.shape[1] < old_classes:
        raise ValueError(
            f"with {old_classes} old classes the teacher's logits must be (B,{old_classes}) and the student's "
            f"(B,{old_classes} or more), not {tuple(teacher.shape)} and {tuple(student.shape)}"
        )
    student, teacher = _widen(student) / temperature, _widen(teacher) / temperature
    loss = student.new_zeros(())
    start = 0
    for size in task_sizes:
        own = slice(start, start + size)
        log_student, log_teacher = student[:, own].log_softmax(dim=1), teacher[:, own].log_softmax(dim=1)
        loss = loss + F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
        start += size
    return loss * temperature**2


def sigmoid_distillation(student: Tensor, teacher: Tensor, squash: Literal["single", "double"] = "single") -> Tensor:
    """Keep each old class's sigmoid close to the teacher's: binary cross-entropy, mean over clips and classes.

    ``student`` and ``teacher`` are logits (B,C_old). "double" squashes the student's logits once more before, which
    is what the published code of Pian et al. does. Source: Rebuffi et al., "iCaRL", CVPR 2017, algorithm 3.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"the logits of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ")
    student, target = _widen(student), _widen(teacher).sigmoid()
    if squash == "double":
        student = student.sigmoid()
    elif squash != "single":
        raise ValueError(f"squash must be 'single' or 'double', not {squash!r}")
    return F.binary_cross_entropy_with_logits(student, target)


def logit_replay(logits: Tensor, stored: Tensor) -> Tensor:
    """Hold logits (B,C) at those that were stored (B,C_s), C_s <= C: mean squared difference.

    The mean is over what was known when a clip was stored; NaN marks what was not, and where nothing is known the
    loss is 0. Source: Buzzega et al., "Dark Experience for General Continual Learning", NeurIPS 2020, eq. 6.
    """
    if stored.ndim != 2 or len(stored) != len(logits) or stored.shape[1] > logits.shape[1]:
        raise ValueError(
            f"stored logits {tuple(stored.shape)} must be (B,{logits.shape[1]} or fewer) with B = {len(logits)}"
        )
    logits, stored = _widen(logits)[:, : stored.shape[1]], _widen(stored)
    known = ~stored.isnan()
    difference = torch.where(known, logits - stored.nan_to_num(), 0.0)
    return (difference**2).sum() / known.sum().clamp_min(1)


def nca(logits: Tensor, labels: Tensor, margin: Tensor | float, form: Literal["code", "paper"] = "code") -> Tensor:
    """Neighbourhood component analysis over scaled similarities (B,C) to the classes (AFC), mean over clips.

    "paper": minus the target's similarity, less ``margin`` (in the logits' scale), plus the log of the sum of
    exp over the *other* classes, or 0 where that is negative (Douillard et al., "PODNet", ECCV 2020). "code", the
    published code of Pian et al.: all similarities are taken relative to the greatest, so that a margin on all of
    them cancels, and in the sum the target counts as exp(0). A single class has nothing to be told apart from: 0
    either way.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} must be (B,C) and labels {tuple(labels.shape)} (B,)")
    logits = _widen(logits)
    target = logits.gather(1, labels[:, None]).squeeze(1)
    if logits.shape[1] == 1:
        return 0.0 * target.sum()
    is_target = F.one_hot(labels, logits.shape[1]).bool()
    if form == "paper":
        others = logits.masked_fill(is_target, -torch.inf)
        return (others.logsumexp(dim=1) - (target - margin)).clamp_min(0).mean()
    if form != "code":
        raise ValueError(f"form must be 'code' or 'paper', not {form!r}")
    greatest = logits.amax(dim=1, keepdim=True)
    others = (logits - greatest).masked_fill(is_target, 0.0)
    return (others.logsumexp(dim=1) - (target - greatest.squeeze(1))).mean()


def feature_discrepancy(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], importance: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Keep features close to the teacher's (AFC): weighted distance, summed over the features, mean over clips.

    ``student`` and ``teacher`` hold L2-normalised features (B,D) by name, ``importance`` a weight (B,) for each; 1 by
    default. Source: Kang et al., CVPR 2022, eq. 8, with the distance of Pian et al.'s published code: not squared.
    """
    total = torch.zeros(())
    for name, feature in student.items():
        if feature.shape != teacher[name].shape:
            shapes = f"student {tuple(feature.shape)} and teacher {tuple(teacher[name].shape)}"
            raise ValueError(f"the {name} features of {shapes} differ")
        distance = torch.linalg.vector_norm(_widen(feature) - _widen(teacher[name]), dim=1)
        weighted = distance if importance is None else importance[name] * distance
        total = total.to(weighted) + weighted.mean()
    return total


def feature_distillation(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], form: Literal["cosine", "mse"] = "cosine"
) -> Tensor:
    """Keep features where the teacher has them: mean over clips, and over the features.

    ``student`` and ``teacher`` hold features (B,D) by name, of any length. "cosine": 1 - cos. "mse": squared distance
    of the L2-normalised features, which is twice that. Zero vectors have the cosine 0 with everything. Ours, for the
    reconstruction of arXiv 2606.10887; the cosine form as in Hou et al., CVPR 2019.
    """
    if form not in ("cosine", "mse"):
        raise ValueError(f"form must be 'cosine' or 'mse', not {form!r}")
    terms = []
    for name, feature in student.items():
        if feature.shape != teacher[name].shape or feature.ndim != 2:
            shapes = f"student {tuple(feature.shape)} and teacher {tuple(teacher[name].shape)}"
            raise ValueError(f"the {name} features of {shapes} must both be (B,D)")
        ours, theirs = F.normalize(_widen(feature), dim=1), F.normalize(_widen(teacher[name]), dim=1)
        apart = 1 - (ours * theirs).sum(dim=1) if form == "cosine" else ((ours - theirs) ** 2).sum(dim=1)
        terms.append(apart.mean())
    return torch.stack(terms).mean()


def released_weighted_cross_entropy(
    logits: Tensor, labels: Tensor, visual: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """What MCIL-AudioCLIP's release computes as its weighted contrastive term: the mean cross-entropy.

    ``logits`` (B,C), ``labels`` (B,), ``visual`` (B,D) L2-normalised. With w_ij = cos(v_i, v_j) / 2 + 1/2 each clip's
    cross-entropy is multiplied by the sum of w_ij over j and divided by it: the weights cancel. Computed as it is
    written there, ``L_w = mean_i [ sum_j w_ij ce_i / sum_j w_ij ]``. With smoothing e the target of ce is 1 - e for the
    label and e / C more for each class, the label too.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or visual.shape[:1] != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} must be (B,C), labels {tuple(labels.shape)} (B,) and visual "
            f"{tuple(visual.shape)} (B,D)"
        )
    with torch.autocast(visual.device.type, enabled=False):
        weights = _widen(visual) @ _widen(visual).T / 2 + 1 / 2
    losses = F.cross_entropy(_widen(logits), labels, reduction="none", label_smoothing=label_smoothing)
    return ((weights * losses[:, None]).sum(dim=1) / weights.sum(dim=1)).mean()


def released_mutual_information(first: Tensor, second: Tensor) -> Tensor:
    """What MCIL-AudioCLIP's release calls mutual information, of features x and y (B,D), summed over the batch.

    ``I = sum over B and D of J (log J - log P - log Q)`` with P = softmax(x), Q = softmax(y), J = softmax(x * y). No
    joint distribution of anything: for unit vectors it is about B log D, whatever they are, with next to no gradient.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"the features {tuple(first.shape)} and {tuple(second.shape)} must both be (B,D)")
    first, second = _widen(first), _widen(second)
    joint = (first * second).log_softmax(dim=1)
    return (joint.exp() * (joint - first.log_softmax(dim=1) - second.log_softmax(dim=1))).sum()


def _log_similarity(audio: Tensor, visual: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities (B,B): for the audio of clip i, how likely the visual of each clip j is."""
    if audio.ndim != 2 or audio.shape != visual.shape:
        raise ValueError(f"audio {tuple(audio.shape)} and visual {tuple(visual.shape)} must both be (B,D)")
    # Of all that the losses do, autocast would narrow the matrix product only.
    with torch.autocast(audio.device.type, enabled=False):
        return (_widen(audio) @ _widen(visual).T / temperature).log_softmax(dim=1)


def _widen(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def weighted_contrastive(
    logits: Tensor, labels: Tensor, similarity: Tensor, reading: Literal["classes", "clips"] = "classes"
) -> Tensor:
    """Weighted class-incremental contrastive loss: clips that look alike share in each other's class.

    ``logits`` (B,C) are scaled similarities of clips and class prototypes, ``labels`` (B,), ``similarity`` (B,B) the
    weights w_ij of clips j for clip i, such as (cosine + 1) / 2; no gradient flows into them. With l_ij the
    log-probability that clip i has the class of clip j:

    - "classes": -mean_i (sum_j w_ij l_ij / sum_j w_ij), the form of Srinivasa et al., "CWCL", NeurIPS 2023, with class
      prototypes in the place of the second modality;
    - "clips": -mean_i (sum_j w_ij l_jj / sum_j w_ij), what MCIL-AudioCLIP's released code becomes when its weights are
      multiplied along the other axis.

    The paper's own equation is not known to us. With equal weights "clips" is the cross-entropy.
    """
    clips = len(logits)
    if labels.shape != (clips,) or similarity.shape != (clips, clips):
        raise ValueError(
            f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)} and similarity {tuple(similarity.shape)} must "
            "be (B,C), (B,) and (B,B)"
        )
    weights = _widen(similarity.detach())
    weights = weights / weights.sum(dim=1, keepdim=True)
    likelihood = _widen(logits).log_softmax(dim=1)
    if reading == "classes":
        return -(weights * likelihood[:, labels]).sum(dim=1).mean()
    if reading == "clips":
        # No matrix product: autocast would narrow it.
        return -(weights * likelihood.gather(1, labels[:, None]).T).sum(dim=1).mean()
    raise ValueError(f"reading must be 'classes' or 'clips', not {reading!r}")
