"""The picture that an attribution is measured from, and the paint that covers a place.

Zero is no such picture. Zero brightness is an object of its own (black), and a network that
normalises after a convolution without bias gives a·x the logits of x for every a > 0: all of
f(x) - f(0) then happens in a jump at zero, and what 50 steps of a path integral see is something
else. Measured on an untrained GroupNorm network: integrated gradients add up to -0.05 where the
logit differs by -0.73; from a blurred picture they are complete.
"""

import torch
from torch import Tensor

from common.errors import ExplanationError
from common.machine import torchvision_ops  # noqa: F401 - must come before torchvision

from torchvision.transforms.v2.functional import gaussian_blur  # isort: skip

BLUR_SHARE = 0.125  # standard deviation of the blur, as a share of the side


def blurred(images: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W), H = W, without what is smaller than an eighth of the side.

    A Gaussian of ``BLUR_SHARE`` of the side, cut off at two standard deviations, mirrored at the
    border. Brightness, colour and coarse anatomy stay, lesions go.
    """
    sigma = BLUR_SHARE * images.shape[-1]
    kernel = 2 * round(2 * sigma) + 1
    paint: Tensor = gaussian_blur(images, kernel_size=[kernel, kernel], sigma=[sigma, sigma])
    return paint


def mean_colour(images: Tensor) -> Tensor:
    """Return each picture of (B, 3, H, W) painted evenly with its own mean colour."""
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images)


def dataset_mean(pictures: Tensor) -> Tensor:
    """Return the mean (3, H, W) of prepared pictures (N, 3, H, W): the other usual baseline.

    It is the same for all pictures of a set, so attributions of one are comparable to another's;
    but what all pictures share, such as where the lungs are, is not attributed.

    Raises ExplanationError without a picture.
    """
    if len(pictures) == 0:
        raise ExplanationError("the mean of no pictures: give at least one prepared picture.")
    return torch.as_tensor(pictures).mean(dim=0)
