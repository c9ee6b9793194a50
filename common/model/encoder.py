"""The timm CNN that looks at the picture: a middle stage for evidence, a deeper one for context.

The only file that knows timm.
"""

import common.machine.torchvision_ops  # isort: skip  # noqa: F401 - before timm, which imports torchvision

from typing import cast

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from common.config.model import EncoderConfig
from common.errors import ModelError
from common.model.weights import WeightsKind, kind_of
from common.registry import unknown_name

_SIDE_PX = 64  # of the picture of zeros that tells channels and strides
# What timm would read weights from, or take for something else than the network's own shape.
# A run's or package's description of a network must not make anybody read another file.
_NO_OPTIONS = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "features_only",
        "out_indices",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
    }
)


class Encoder(nn.Module):
    """Two feature pictures of one timm CNN; layers deeper than needed are left out."""

    def __init__(self, config: EncoderConfig, *, shift_px: int = 0) -> None:
        """Build the CNN with timm's own initialisation or weights.

        Strided convolutions with symmetric padding look up and to the left of the cells they
        stand for; ``shift_px`` moves the picture that far up and left to meet them.

        Raises ModelError for an unknown name, options or stages that timm does not accept,
        weights that cannot be had, and networks without feature pictures.
        """
        super().__init__()
        self.shift_px = shift_px
        stages = sorted({config.evidence_stage, config.transformer_stage})
        self.net = _create(config, tuple(stages))
        for module in self.net.modules():
            # An activation that overwrites its input breaks per-sample gradients.
            if getattr(module, "inplace", None) is True:
                module.inplace = False  # type: ignore[assignment]
        self._next_block = _next_block(self.net, config)
        sample = torch.zeros(1, 3, _SIDE_PX, _SIDE_PX)
        try:
            with torch.no_grad():
                evidence, deep = self.eval()(sample)
        except (AssertionError, RuntimeError) as error:  # windows or patches of another size
            raise ModelError(
                f"{config.name} cannot read a {_SIDE_PX} px picture: {error}. Choose a CNN."
            ) from error
        self.train()
        self.evidence_channels, self.evidence_stride_px = _shape_of(evidence, config)
        self.deep_channels, self.deep_stride_px = _shape_of(deep, config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return evidence features (B, C_e, H/s_e, W/s_e) and deep ones (B, C_d, H/s_d, W/s_d)."""
        images = _shifted(images, self.shift_px)
        if self._next_block is None:
            features = cast(list[Tensor], self.net(images))
            return features[0], features[-1]
        tapped: list[Tensor] = []

        def tap(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            tapped.append(inputs[0])

        # Taken where the next block receives it: a forward hook on the block itself runs before
        # torch attaches full backward hooks, so Opacus would miss this branch's gradient (its
        # per-sample gradients were wrong by 20 %). Registered per call, so that neither copies
        # nor function transforms meet old features.
        handle = self.net.get_submodule(self._next_block).register_forward_pre_hook(tap)
        try:
            features = cast(list[Tensor], self.net(images))
        finally:
            handle.remove()
        return tapped[0], features[-1]


def _shifted(images: Tensor, shift_px: int) -> Tensor:
    """Return pictures (B, 3, H, W) moved up and left (negative: down and right), edges repeated."""
    if shift_px == 0:
        return images
    height, width = images.shape[2:]
    before, after = max(-shift_px, 0), max(shift_px, 0)
    wider = functional.pad(images, (before, after, before, after), mode="replicate")
    return wider[:, :, after : after + height, after : after + width]


def _create(config: EncoderConfig, stages: tuple[int, ...]) -> nn.Module:
    """Build timm's feature network, weights included."""
    if not timm.is_model(config.name.split(".")[0]):
        known = dict.fromkeys(timm.list_models())
        sentence = unknown_name("encoder", config.name, known).split(" Known:")[0]
        raise ModelError(f"{sentence} `timm.list_models()` names all {len(known)}.")
    if refused := sorted(_NO_OPTIONS & set(config.options)):
        raise ModelError(
            f"encoder.options: {refused[0]} is no property of the network. Leave it out; weights "
            "are named by encoder.pretrained, stages by evidence_stage and transformer_stage."
        )
    options: dict[str, object] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.options.items()
    }
    if isinstance(config.pretrained, str) and kind_of(config.pretrained) is WeightsKind.ENCODER:
        options["pretrained_cfg_overlay"] = {"file": config.pretrained}
    wants_timm_weights = config.pretrained is True or "pretrained_cfg_overlay" in options
    try:
        net: nn.Module = timm.create_model(
            config.name,
            pretrained=wants_timm_weights,
            features_only=True,
            out_indices=stages,
            **options,  # type: ignore[arg-type]
        )
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the weights of {config.name} could not be had ({error}). Where there is no network, "
            "give encoder.pretrained the path of a safetensors file, or false."
        ) from error
    except (TypeError, ValueError, RuntimeError, AssertionError, IndexError, KeyError) as error:
        raise ModelError(
            f"timm cannot build {config.name} with options {config.options}, stages {stages} and "
            f"pretrained: {config.pretrained}: {error}. Correct the encoder's keys."
        ) from error
    return net


def _next_block(net: nn.Module, config: EncoderConfig) -> str | None:
    """Return the name of the block after the evidence block; None to read at the stage's end."""
    if config.evidence_block is None:
        return None
    stage = str(net.feature_info.info[config.evidence_stage]["module"])  # type: ignore[union-attr,index]
    known = dict(net.named_modules())
    stage = stage if stage in known else stage.replace(".", "_")  # timm flattens stages so
    module = known.get(stage)
    inner = getattr(module, "blocks", module)
    if not isinstance(inner, nn.Sequential):
        raise ModelError(
            f"stage {config.evidence_stage} of {config.name} has no numbered blocks; "
            "set encoder.evidence_block to null to read at its end."
        )
    if config.evidence_block + 1 >= len(inner):
        raise ModelError(
            f"encoder.evidence_block is {config.evidence_block}, but stage "
            f"{config.evidence_stage} of {config.name} has {len(inner)} blocks, numbered from 0. "
            "Name one before the last, or null to read at the stage's end."
        )
    prefix = stage if inner is module else f"{stage}.blocks"
    return f"{prefix}.{config.evidence_block + 1}"


def _shape_of(features: Tensor, config: EncoderConfig) -> tuple[int, int]:
    """Return channels and stride in px of a feature picture made from the sample."""
    _, channels, height, width = features.shape if features.ndim == 4 else (0, 0, 0, 1)
    if height != width or height == 0 or _SIDE_PX % height:
        raise ModelError(
            f"{config.name} gave features of shape {tuple(features.shape)} for a "
            f"{_SIDE_PX} px picture, expected (1, channels, side, side). Choose a CNN."
        )
    return int(channels), _SIDE_PX // height
