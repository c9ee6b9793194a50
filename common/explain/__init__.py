"""Explanation methods: one file each, one signature, one shape contract."""

from typing import TYPE_CHECKING, Protocol

from common.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from common.model.network import Network


class Explainer(Protocol):
    """Says which places of each picture speak for one logit."""

    def __call__(self, network: "Network", images: "Tensor", *, task: str, logit: int) -> "Tensor":
        """Return saliency maps (B, H, W) of ``images`` (B, 3, H, W).

        Values are >= 0 and sum to 1 per picture; a picture in which nothing speaks for the logit
        has a map of zeros. ``network`` is left in the mode it came in, without gradients.
        """
        ...


EXPLAINERS: Registry[Explainer] = Registry(
    "explanation method",
    {
        "evidence": "common.explain.evidence:evidence",
        "occlusion": "common.explain.occlusion:occlusion",
    },
)
