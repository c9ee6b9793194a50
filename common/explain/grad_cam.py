"""Grad-CAM at the encoder's evidence features: channels weighed by their mean gradient."""

from captum.attr import LayerGradCam
from torch import Tensor

from common.explain.at_rest import at_rest
from common.explain.saliency import as_saliency, at_picture_size
from common.explain.score import score_of
from common.model.network import Network


def grad_cam(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return where the channels that raise one logit are strong.

    Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2, with captum, at the features that
    evidence is read from, before their projection. The gradient is the whole one: through the
    evidence and through whatever the transformer makes of the same features.

    A channel has one weight for the whole picture, while this network weighs places one by one.
    So little of the map may lie in a lesion although the model looks there (measured on phantoms:
    .09-.43 of the map in the lesion where painting over it takes .6-.7 of the logit). A low value
    is no evidence against the model; report it, do not judge by it.

    Args:
        network: The model.
        images: (B, 3, H, W).
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1 (or all zero).
    """
    with at_rest(network):
        score = score_of(network, task=task, logit=logit)
        # Pictures want a gradient, so that the one of the features goes all the way: else captum
        # would start at the features, and miss what deeper stages have made of them already.
        pictures = images.detach().clone().requires_grad_()
        cells = LayerGradCam(score, network.trunk.project_evidence).attribute(
            pictures, attribute_to_layer_input=True, relu_attributions=True
        )  # (B, 1, h, w)
    return as_saliency(at_picture_size(cells.detach().squeeze(1), images))
