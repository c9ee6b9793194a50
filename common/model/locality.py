"""Measures what an evidence token sees, so that a map cannot point away from its cause.

Evidence may only depend on the picture around it. Convolutions keep that promise up to their
receptive field; GroupNorm, BatchNorm in training and squeeze-and-excitation break it, because
their statistics or gates span the whole picture. What an encoder does is measured, not guessed
from its name: where is the gradient of one token's features with respect to the picture nonzero
(the theoretical receptive field of Luo et al. 2016, https://arxiv.org/abs/1701.04128, section 1,
plus whatever normalisation adds), and do features move when a far patch is altered.

A token must also look at its own cell. Where that gradient lies, on the whole, off the cell's
centre (padded strided convolutions), the encoder is given the whole px that bring it back.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.config.model import EncoderConfig
from common.errors import ModelError
from common.model.encoder import Encoder

_DRAWS = 6  # of random weights, over which the place a token looks at is averaged

# Class names of timm and torch whose output at one place depends on all places.
_GLOBAL_KINDS = {
    "GroupNorm": "GroupNorm (statistics over the whole picture)",
    "BatchNorm": "BatchNorm (statistics over the whole picture and batch while training)",
    "InstanceNorm": "InstanceNorm (statistics over the whole picture)",
    "SEModule": "squeeze-and-excitation",
    "SqueezeExcite": "squeeze-and-excitation",
    "SqueezeExcitation": "squeeze-and-excitation",
    "EffectiveSE": "squeeze-and-excitation",
    "EcaModule": "channel attention (ECA)",
    "CecaModule": "channel attention (ECA)",
    "GlobalResponseNorm": "global response normalisation",
    "GatherExcite": "gather-excite",
    "AdaptiveAvgPool": "global pooling",
    "Attention": "attention over positions",
}


@dataclass(frozen=True)
class Locality:
    """What one evidence token depends on."""

    receptive_field_px: int  # width of the picture part with any influence, at most the picture
    picture_share: float  # receptive_field_px / picture width
    shift_px: int  # by which pictures move up and left, so that tokens look at their cells
    far_change: float  # change of the tokens beyond the allowed field, relative to their deviation
    crosses_pictures: bool  # does a token depend on other pictures of the batch
    global_parts: tuple[str, ...]  # parts of the encoder known to see the whole picture


def measure_locality(config: EncoderConfig, *, image_size_px: int) -> Locality:
    """Measure the evidence path of an encoder, with random weights, in training mode.

    Weights are random because timm starts many branches at exactly zero, where a leak is
    invisible. Results are kept per configuration. Raises ModelError when it cannot be built.
    """
    plain = config.model_copy(update={"pretrained": False, "allow_leaky": True})
    return _measure(plain.model_dump_json(), image_size_px)


@lru_cache(maxsize=64)
def _measure(config_json: str, image_size_px: int) -> Locality:
    config = EncoderConfig.model_validate_json(config_json)
    # Only the evidence path is measured: stages after it are not built.
    config = config.model_copy(update={"transformer_stage": config.evidence_stage})
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        encoder = Encoder(config)
        _randomise(encoder)
        images = torch.randn(2, 3, image_size_px, image_size_px)
        features = _token_features(encoder, config.token_stride_px)
        field_px, crosses = _receptive_field(features, images)
        reach_px = min(image_size_px, round(config.max_receptive_field * image_size_px))
        if field_px < image_size_px:  # of a clipped field the centre cannot be told
            encoder.shift_px = _shift_px(encoder, features, field_px, config.token_stride_px)
        far_change = _far_change(features, images, reach_px, config.token_stride_px)
    return Locality(
        receptive_field_px=field_px,
        picture_share=field_px / image_size_px,
        shift_px=encoder.shift_px,
        far_change=far_change,
        crosses_pictures=crosses,
        global_parts=_global_parts(encoder),
    )


def require_local(config: EncoderConfig, *, image_size_px: int) -> Locality:
    """Return the measurement. Raises ModelError when evidence leaks and that is not allowed."""
    locality = measure_locality(config, image_size_px=image_size_px)
    complaint = leak(config, locality)
    if complaint is not None and not config.allow_leaky:
        raise ModelError(
            f"{complaint} A map of such evidence can point at a lesion while the cause lies "
            "elsewhere. Use an encoder without normalisation or with LayerNorm per position "
            "(nf_resnet26, nf_resnet50, convnext_atto), read evidence at an earlier stage or "
            "block, or use larger pictures; encoder.allow_leaky: true accepts it."
        )
    return locality


def leak(config: EncoderConfig, locality: Locality) -> str | None:
    """Return the sentence that says what leaks, or None when the evidence is local."""
    if not locality.crosses_pictures and locality.picture_share <= config.max_receptive_field:
        return None
    where = f"evidence of {config.name} at stage {config.evidence_stage} is not local:"
    seen = (
        f"a token depends on {locality.receptive_field_px} px, "
        f"{locality.picture_share:.0%} of the picture's width (allowed "
        f"{config.max_receptive_field:.0%}); far tokens move by "
        f"{locality.far_change:.2g} deviations"
    )
    also = " and on other pictures of the batch" if locality.crosses_pictures else ""
    parts = f" It contains {', '.join(locality.global_parts)}." if locality.global_parts else ""
    return f"{where} {seen}{also}.{parts}"


def _token_features(encoder: Encoder, token_stride_px: int) -> Callable[[Tensor], Tensor]:
    factor = max(1, token_stride_px // encoder.evidence_stride_px)

    def features(images: Tensor) -> Tensor:
        # The same random numbers in every call: dropout must not look like a leak.
        torch.manual_seed(1)
        return functional.avg_pool2d(encoder(images)[0], factor)

    return features


def _randomise(encoder: nn.Module) -> None:
    """Give parameters that start as constants (gains, layer scales, biases) random values."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.numel() == 1 or parameter.std() < 1e-4:
                parameter.copy_(torch.empty_like(parameter).uniform_(0.5, 1.5))


def _receptive_field(features: Callable[[Tensor], Tensor], images: Tensor) -> tuple[int, bool]:
    """Return the px that the middle token's gradient covers, and if it leaves its picture."""
    images = images.clone().requires_grad_()
    tokens = features(images)  # (2, C, h, w)
    middle = tokens[0, :, tokens.shape[2] // 2, tokens.shape[3] // 2]
    (gradient,) = torch.autograd.grad((middle * torch.randn_like(middle)).sum(), images)
    touched = gradient[0].abs().sum(dim=0) > 0  # (H, W)
    extents = [
        int(places.max() - places.min()) + 1 if len(places) else 0
        for places in (touched.any(dim=axis).nonzero() for axis in (0, 1))
    ]
    return max(extents), bool(gradient[1].abs().sum() > 0)


def _shift_px(
    encoder: Encoder,
    features: Callable[[Tensor], Tensor],
    field_px: int,
    token_stride_px: int,
) -> int:
    """Return how far below and right of what a token sees its cell lies, to the nearest px.

    What it sees is the mean place of the squared gradient: the share of a token's variance that
    each pixel of a noise picture contributes. Branches and shortcuts of a residual block may look
    at different places, hence the mean over random weights.
    """
    step_px = 64  # any encoder that could be built reads multiples of this side
    side_px = step_px * math.ceil((field_px + 2 * token_stride_px) / step_px)
    places = torch.arange(side_px) + 0.5
    offsets = []
    for _ in range(_DRAWS):
        images = torch.randn(1, 3, side_px, side_px, requires_grad=True)
        tokens = features(images)
        middle = tokens.shape[2] // 2
        seen = tokens[0, :, middle, middle]
        (gradient,) = torch.autograd.grad((seen * torch.randn_like(seen)).sum(), images)
        weight = gradient[0].square().sum(dim=0)  # (H, W)
        both = weight.sum(dim=0) + weight.sum(dim=1)
        cell_px = (middle + 0.5) * token_stride_px
        offsets.append(cell_px - float(both @ places / both.sum()))
        _redraw(encoder)
    return round(sum(offsets) / len(offsets))


def _redraw(encoder: nn.Module) -> None:
    """Shuffle each parameter's values and draw single gains anew: other weights of their kind."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.numel() == 1:
                parameter.uniform_(0.5, 1.5)
            else:
                order = torch.randperm(parameter.numel())
                parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _far_change(
    features: Callable[[Tensor], Tensor], images: Tensor, reach_px: int, token_stride_px: int
) -> float:
    """Alter a corner patch; return the largest change of tokens farther away than ``reach_px``."""
    patch_px = max(token_stride_px, images.shape[3] // 8)
    altered = images.clone()
    altered[:, :, :patch_px, :patch_px] += 3.0
    with torch.no_grad():
        before, after = features(images), features(altered)
    far = (patch_px + reach_px) // token_stride_px
    if far >= before.shape[3]:
        far = before.shape[3] - 1
    change = (after - before)[:, :, far:, far:].abs().max()
    return float(change / before.std())


def _global_parts(encoder: nn.Module) -> tuple[str, ...]:
    found = {
        label: None
        for module in encoder.modules()
        for kind, label in _GLOBAL_KINDS.items()
        if kind in type(module).__name__
    }
    return tuple(found)
