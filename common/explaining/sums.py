"""Maps whose parts promise a sum, and how far they keep it for one picture.

Integrated gradients and relevance propagation assert their sum; DeepLIFT is approximate on this
network and GradientSHAP an estimate (see their own files for what was measured of them). A reader
should see it of the very map that is shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from common.explain.attribution import FLOOR, Attribution
from common.explain.lrp import Relevance
from common.explain.saliency import saliency_of_logits
from common.explaining.question import Question
from common.explanation.schema import Completeness
from common.explanation.written import written
from common.model.network import Network
from common.registry import Registry


class Attributor(Protocol):
    """Says what each pixel of each picture adds to one logit."""

    def __call__(
        self, network: Network, images: Tensor, *, task: str, logit: int
    ) -> Attribution | Relevance:
        """Return signed parts (B, 3, H, W) and what they should add up to."""
        ...


# The same functions that these methods' maps are made of.
ATTRIBUTORS: Registry[Attributor] = Registry(
    "method with a sum",
    {
        "integrated-gradients": "common.explain.integrated_gradients:attribute",
        "integrated-gradients-projected": "common.explain.corrected:attribute_projected",
        "gradient-shap": "common.explain.gradient_shap:attribute",
        "deep-lift": "common.explain.deep_lift:attribute",
        "lrp": "common.explain.lrp:attribute",
    },
)
_FROM_BLURRED = "the logit's difference from the blurred picture's"
_WHOLES: Mapping[str, str] = {
    "integrated-gradients": _FROM_BLURRED,
    "integrated-gradients-projected": _FROM_BLURRED,
    "gradient-shap": "the logit's difference from the mean of its baselines'",
    "deep-lift": _FROM_BLURRED,
    "lrp": "the logit",
}


@dataclass(frozen=True, eq=False)
class Mapped:
    """A method's map, and what it adds up to where it promises a sum."""

    saliency: Tensor  # (1, S, S)
    completeness: Completeness | None


def mapped(asked: Question, method: str) -> Mapped:
    """Return a method's map of the picture, the method run once.

    Raises ExplanationError where it has none, and whatever else the method raises.
    """
    if method not in ATTRIBUTORS:
        return Mapped(asked.saliency(method), None)
    found = ATTRIBUTORS.get(method)(
        asked.network, asked.image, task=asked.task.name, logit=asked.logit
    )
    if isinstance(found, Relevance):
        saliency = saliency_of_logits(found.pixels.sum(dim=1), found.logit)
        values, constants, whole = found.pixels, float(found.constants[0]), found.logit
    else:
        saliency = found.saliency()
        values, constants, whole = found.values, 0.0, found.difference
    return Mapped(
        saliency,
        completeness(
            parts=float(values.double().sum()),
            constants=constants,
            whole=float(whole[0]),
            of=_WHOLES[method],
        ),
    )


def completeness(*, parts: float, constants: float, whole: float, of: str) -> Completeness:
    """Return how far parts and constants add up to a whole, all in logits, as it is written."""
    parts, constants, whole = written(parts), written(constants), written(whole)
    return Completeness(
        parts=parts,
        constants=constants,
        whole=whole,
        of=of,
        gap=written(abs(parts + constants - whole) / max(abs(whole), FLOOR)),
    )
