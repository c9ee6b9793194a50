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
        has a map of zeros. ``network`` is asked in evaluation mode and left in the mode it came
        in, without gradients. Raises ExplanationError where the method cannot explain this logit
        of this network.
        """
        ...


EXPLAINERS: Registry[Explainer] = Registry(
    "explanation method",
    {
        "evidence": "common.explain.evidence:evidence",
        "rollout": "common.explain.rollout:rollout",
        "grad-cam": "common.explain.grad_cam:grad_cam",
        "grad-cam-plus-plus": "common.explain.grad_cam_plus_plus:grad_cam_plus_plus",
        "gradient": "common.explain.gradient:gradient",
        "gradient-projected": "common.explain.corrected:gradient_projected",
        "smooth-grad": "common.explain.smooth_grad:smooth_grad",
        "integrated-gradients": "common.explain.integrated_gradients:integrated_gradients",
        "integrated-gradients-smoothed": ("common.explain.corrected:integrated_gradients_smoothed"),
        "integrated-gradients-projected": (
            "common.explain.corrected:integrated_gradients_projected"
        ),
        "gradient-shap": "common.explain.gradient_shap:gradient_shap",
        "gradient-shap-projected": "common.explain.corrected:gradient_shap_projected",
        "deep-lift": "common.explain.deep_lift:deep_lift",
        "lrp": "common.explain.lrp:lrp",
        "occlusion": "common.explain.occlusion:occlusion",
        "lime": "common.explain.lime:lime",
    },
)
