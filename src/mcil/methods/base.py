"""What a method is: a network, how it is trained, and what it keeps between tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args, get_type_hints

from torch import Tensor
from torch.optim import Adam, Optimizer

from mcil.errors import McilError, did_you_mean
from mcil.memory import SELECTORS, Selection, Selector
from mcil.models import AudioVisualNet, Network
from mcil.models.closed_form import ClosedFormNet
from mcil.models.closed_form_features import Block, ClipFeatures
from mcil.registry import Registry, checked_option
from mcil.types import Batch, Modality, Outputs, Step, Teacher

METHODS: Registry[type[Method]] = Registry("method", "mcil.methods")

Replay = Literal["paired", "joint"]


@dataclass(frozen=True)
class Method(ABC):
    """A way to learn one task after another. The fields of a subclass are the method's options.

    A method is either trained by gradient descent (:class:`GradientMethod`) or fitted in closed form
    (:class:`ClosedForm`). Class attributes say what it is given; whoever trains it reads them and no method's name:

    - ``source``: where the method was published.
    - ``uses_memory``: keeps exemplars.
    - ``cumulative``: is given the training clips of all seen classes at every task and starts afresh each time
      (joint training, the upper bound).
    - ``closed_form``: whether it is fitted in one pass.
    - ``uses_text``: reads text about the classes.
    - ``needs_weights``: learns inside an encoder, whose weights a user has to fetch; never run unless it is named.
    - ``above_zero``: options that cannot be 0. No number among the options can be negative.
    """

    source: ClassVar[str]
    uses_memory: ClassVar[bool] = False
    cumulative: ClassVar[bool] = False
    closed_form: ClassVar[bool] = False
    uses_text: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = False
    above_zero: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float):
                continue
            if field.name in self.above_zero and not value > 0:
                raise McilError(f"option '{field.name}' must be above 0, but it is {value}")
            if not value >= 0:
                raise McilError(f"option '{field.name}' must be 0 or more, but it is {value}")

    @property
    def standardised(self) -> bool:
        """Whether it is given features that are standardised, where a user wants that; else as they are stored."""
        return not self.closed_form

    @abstractmethod
    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> Network | ClosedFormNet:
        """Return a new network for ``classes`` classes.

        Args:
            channels: of "audio" and "visual" features, and of "text" where text is read.
            classes: of the first task; 0 where text is read, which comes when the network is made to grow.
            modality: what is learnt from.
        """


@dataclass(frozen=True)
class ClosedForm(Method):
    """A method that fits each task in one pass over its clips, keeps sums of their features, and no clip.

    Attributes:
        tokens: "pooled": a video is the mean of its tokens; "guided": and also what random attention, guided by the
            sound, makes of them. Only where both modalities are read.
    """

    closed_form: ClassVar[bool] = True

    tokens: Literal["pooled", "guided"] = "pooled"

    def features(self, channels: Mapping[str, int], modality: Modality) -> ClipFeatures:
        """Return the plain features: sound, mean token, and guided token if it is read."""
        blocks: tuple[Block, ...] = ("audio", "visual", "guided")
        return ClipFeatures(channels, modality, [block for block in blocks if self.reads(block)])

    def reads(self, block: Block) -> bool:
        """Return whether a block of features is among those that the option ``tokens`` names."""
        return self.tokens == "guided" or not block.startswith("guided")

    @abstractmethod
    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> ClosedFormNet:
        """Return a new network for ``classes`` classes; ``channels`` are those of "audio" and "visual" features."""


@dataclass(frozen=True)
class GradientMethod(Method):
    """A method that minimises the sum of named losses.

    Class attributes, besides those of :class:`Method`:

    - ``uses_teacher``: its losses read what the network said before this task (:meth:`teach`).
    - ``replay``: how exemplars come into a batch. "paired": each batch of new clips is followed by one of
      exemplars; "joint": both are shuffled into one set.
    - ``nearest_mean``: classifies by the nearest mean of exemplars instead of the network's classifier.
    - ``stores_logits``: each exemplar keeps what the network said of it after the task that brought it.
    - ``imprints``: sets the classifier's new rows from the new clips' features (:meth:`imprint`).
    - ``trains_once``: descends in the first task only; the network knows what to do with the others.
    """

    uses_teacher: ClassVar[bool] = False
    replay: ClassVar[Replay] = "paired"
    nearest_mean: ClassVar[bool] = False
    stores_logits: ClassVar[bool] = False
    imprints: ClassVar[bool] = False
    trains_once: ClassVar[bool] = False

    @property
    def uses_teacher_attention(self) -> bool:
        """Whether the losses also read the teacher's attention maps of the exemplars."""
        return False

    @property
    def selector(self) -> Selector:
        """Chooses the exemplars of a class."""
        return SELECTORS["random"]

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> Network:
        """Return a new network; see :meth:`Method.network`."""
        audio, visual = channels.get("audio"), channels.get("visual")
        return AudioVisualNet(visual or audio or 0, classes, modality, audio)

    def imprint(self, network: Network, features: Tensor, labels: Tensor, seed: int) -> None:
        """Set the new rows of the classifier before a task but the first is trained.

        Args:
            network: its classifier has grown.
            features: (N,D) fused features of the task's training clips.
            labels: (N,) of the same clips.
            seed: fixes what is random.
        """

    def teach(self, network: Network, clips: Batch, need_attention: bool) -> Teacher:
        """Return what the frozen ``network`` says of ``clips``; called once a task, batch by batch, without gradients.

        The network is the previous task's with a classifier that has already grown; the logits of new classes are
        cut off by the caller.
        """
        outputs = network(clips.audio, clips.visual, need_attention=need_attention)
        return teacher_of(outputs)

    def optimizer(self, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float) -> Optimizer:
        """Return a new optimizer for a task."""
        # Fused: one pass over the weights and their moments instead of a dozen.
        return Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)

    def rate(self, step: int, steps: int) -> float:
        """Return what the learning rate is multiplied by at ``step`` (from 0) of a task's ``steps``."""
        return 1.0

    @abstractmethod
    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the named terms (scalars, weighted) whose sum is minimised."""


@dataclass(frozen=True)
class ReplayMethod(GradientMethod):
    """A method with exemplars.

    Attributes:
        selection: "random", or "herding": the clips whose mean stays nearest to the class's mean.
    """

    uses_memory: ClassVar[bool] = True

    selection: Selection = "random"

    @property
    def selector(self) -> Selector:
        """Chooses the exemplars of a class."""
        return SELECTORS[self.selection]


def teacher_of(outputs: Outputs) -> Teacher:
    """Return the logits and attention maps that a network put out, as a teacher's."""
    return Teacher(
        outputs.logits,
        spatial_attention=outputs.spatial_attention,
        temporal_attention=outputs.temporal_attention,
    )


def create_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Make the method called ``name`` with ``options``; what is not given keeps its default.

    Raises:
        McilError: there is no such method or option (the nearest name is offered), or a value has the wrong type or
            is out of bounds.
    """
    kind = METHODS[name]
    known = [field.name for field in fields(kind)]
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for option, value in (options or {}).items():
        if option not in known:
            has = f"It has: {', '.join(known)}" if known else "It has no options"
            raise McilError(f"method '{name}' has no option '{option}'.{did_you_mean(option, known)} {has}")
        values[option] = checked_option(f"method '{name}': option '{option}'", value, types[option])
    try:
        return kind(**values)
    except McilError as error:
        raise McilError(f"method '{name}': {error}") from None


def describe_methods() -> list[dict[str, Any]]:
    """Return a JSON object for each method: name, source, modalities, memory, kind, and options with their defaults."""
    return [
        {
            "name": name,
            "source": METHODS[name].source,
            "modalities": list(get_args(Modality)),
            "memory": METHODS[name].uses_memory,
            "kind": _kind(METHODS[name]),
            "options": asdict(METHODS[name]()),
        }
        for name in METHODS.names()
    ]


def _kind(method: type[Method]) -> str:
    """Return how a method learns, in words."""
    if method.closed_form:
        return "closed form"
    once = issubclass(method, GradientMethod) and method.trains_once
    return "gradient, then closed form" if once else "gradient"
