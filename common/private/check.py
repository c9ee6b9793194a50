"""Which way to per-unit gradients is right for a network, asked before training.

A wrong gradient of one picture is neither clipped nor hidden as the accountant believes, and
nothing else would tell. So every method is compared with one backward pass per picture before it
is used, on random pictures, in double precision, where rounding (and TF32) cannot be mistaken for
an error nor hide one.
"""

import copy
import hashlib
import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from common.config.loss import LossConfig
from common.config.run import RunConfig
from common.datasets.sample import Batch
from common.errors import ModelError
from common.model.network import Network
from common.private.gradients import METHODS, Method
from common.private.unit_batch import UnitBatch
from common.tasks import Task

log = logging.getLogger(__name__)

RELATIVE_ERROR = 1e-5  # of each parameter's gradient, L2
# Of a picture's whole gradient, for parameters whose true gradient is zero (a bias under softmax).
ABSOLUTE_ERROR = 1e-9
_PICTURES = 2
# Floating point operations of a picture's forward pass from which one pass per unit is faster on a
# CPU: below, starting each layer's computation anew costs more than the vectorised methods do.
HEAVY_FLOPS = 2e8
_VECTORISED: tuple[Method, ...] = ("functorch", "hooks", "loop")

_complaints: dict[str, str | None] = {}  # of this process, by network, task, loss and method


def require_exact_gradients(network: Network, *, task: Task, config: RunConfig) -> Method:
    """Return the method that training may use, as ``privacy.per_sample_gradients`` asks for it.

    ``auto`` is the first that passes of: on a GPU functorch, hooks, loop; on a CPU the same for
    light networks, and loop for those whose forward pass of a picture takes ``HEAVY_FLOPS``.
    (Times of plain training, in processor time of one core: steps of 8 pictures of 256 px with
    ConvNeXt-Atto: loop 1.4, functorch 1.8; 40 of 64 px with the tiny network: 5.9 and 1.9, hooks
    2.2. ConvNeXt-Atto takes 2.6e9 operations, the tiny network 2.2e7.)

    The verdict is remembered for the process. Raises ModelError for a network with layers that
    mix pictures or keep statistics of them, and for a method asked by name that does not pass.
    """
    require_separate_pictures(network)
    asked = config.privacy.per_sample_gradients
    size_px = config.data.image_size_px
    methods = _preferred(network, task, size_px) if asked == "auto" else (asked,)
    complaints = []
    for method in methods:
        complaint = _remembered_complaint(network, task, config.loss, size_px, method)
        if complaint is None:
            return method
        complaints.append(f"{method}: {complaint}")
    remedy = (
        "Choose an encoder of configs/models/."
        if asked in ("auto", "loop")
        else "Set privacy.per_sample_gradients to auto or loop."
    )
    raise ModelError(
        f"privacy.per_sample_gradients is {asked}, which does not give each picture's own gradient "
        f"in this network ({'; '.join(complaints)}). {remedy}"
    )


def require_separate_pictures(network: nn.Module) -> None:
    """Raise ModelError for a layer that mixes the pictures of a batch or remembers them."""
    for name, module in network.named_modules():
        remembers = isinstance(getattr(module, "running_mean", None), Tensor)
        if remembers or isinstance(module, _BatchNorm):
            raise ModelError(
                f"{name} is a {type(module).__name__}, which uses or keeps statistics over "
                "pictures: with it no update can be private. Choose an encoder that normalises "
                "each picture by itself, as those of configs/models/ do, or turn privacy.enabled "
                "off."
            )


def complaint_about(
    network: Network, method: Method, *, task: Task, loss: LossConfig, image_size_px: int
) -> str | None:
    """Return what is wrong with a method's gradients in a network, None where they are exact.

    The network is not changed.
    """
    twin = copy.deepcopy(network).double().train()
    for module in twin.modules():
        # Dropout would draw differently in each method; layers with parameters keep their mode,
        # without which Opacus's hooks do nothing.
        if not any(True for _ in module.parameters()):
            module.training = False
    _fill_zeros(twin)
    batch = random_batch(twin, task=task, image_size_px=image_size_px)
    if changed := _changed_buffer(twin, batch, task):
        return f"the buffer {changed} changes in training and would tell of the pictures"
    if method == "loop":
        return None  # the others are compared with it
    units = UnitBatch(batch, (1,) * len(batch))
    try:
        found = _all_units(twin, method, units, task, loss)
    except Exception as error:  # whatever a layer makes of Opacus or a function transform
        return f"it breaks down with {type(error).__name__}: {str(error)[:200]}"
    expected = _all_units(twin, "loop", units, task, loss)
    return _difference(found, expected)


def _fill_zeros(network: Network) -> None:
    """Draw parameters that are all zero: behind them every gradient is zero, right or wrong."""
    draw = torch.Generator().manual_seed(1)  # nobody is protected by it
    with torch.no_grad():
        for parameter in network.parameters():
            if not bool(parameter.any()):
                values = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
                parameter.copy_(0.1 * values)


def random_batch(network: Network, *, task: Task, image_size_px: int) -> Batch:
    """Return noise on which every part of the loss has a gradient: positives with an ROI."""
    like = next(network.parameters())
    draw = torch.Generator().manual_seed(0)  # nobody is protected by it
    shape = (_PICTURES, task.num_logits)
    image = torch.randn(_PICTURES, 3, image_size_px, image_size_px, generator=draw)
    # Positive and negative by turns, the first logit of the first picture positive; grades rise.
    target = (torch.arange(_PICTURES)[:, None] + torch.arange(task.num_logits)).remainder(2).eq(0)
    grades = torch.arange(1, _PICTURES + 1)[:, None].expand(shape)
    coverage = torch.rand(*shape, *network.grid(image_size_px), generator=draw)
    count = len(task.concepts)
    signs = (torch.arange(_PICTURES)[:, None] + torch.arange(count)).remainder(2).eq(0)
    places = torch.rand(_PICTURES, count, *network.grid(image_size_px), generator=draw)
    return Batch(
        image=image.to(like),
        target=(grades if task.kind == "ordinal" else target).to(like),
        roi_coverage=coverage.to(like),
        has_roi=torch.ones(shape, dtype=torch.bool, device=like.device),
        concept_target=signs.to(like),
        concept_coverage=places.to(like),
    )


def forward_flops(network: Network, *, task: Task, image_size_px: int) -> int:
    """Return the floating point operations of one picture's forward pass, of its large layers."""
    image = torch.zeros(1, 3, image_size_px, image_size_px).to(next(network.parameters()))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image, task=task.name)
    return int(counter.get_total_flops())


def _preferred(network: Network, task: Task, image_size_px: int) -> tuple[Method, ...]:
    if next(network.parameters()).device.type == "cuda":
        return _VECTORISED
    flops = forward_flops(network, task=task, image_size_px=image_size_px)
    return ("loop",) if flops >= HEAVY_FLOPS else _VECTORISED


def _remembered_complaint(
    network: Network, task: Task, loss: LossConfig, image_size_px: int, method: Method
) -> str | None:
    # Strides too: a channels_last network is another one to Opacus.
    layout = [(n, p.shape, p.stride(), p.requires_grad) for n, p in network.named_parameters()]
    device = next(network.parameters()).device
    parts = (network.config, network, layout, task, loss, image_size_px, device, method)
    key = hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()
    if key not in _complaints:
        complaint = complaint_about(
            network, method, task=task, loss=loss, image_size_px=image_size_px
        )
        _complaints[key] = complaint
        log.log(
            logging.INFO if complaint is None else logging.WARNING,
            "per-picture gradients compared",
            extra={
                "action": "gradients_compared",
                "method": method,
                "task": task.name,
                "complaint": complaint or "",
            },
        )
    return _complaints[key]


def _changed_buffer(network: Network, batch: Batch, task: Task) -> str | None:
    """Return the first buffer that a forward pass in training mode changes."""
    before = {name: value.clone() for name, value in network.named_buffers()}
    with torch.no_grad():
        network(batch.image, task=task.name)
    for name, value in network.named_buffers():
        if name not in before or not torch.equal(value, before[name]):
            return name
    return None


def _all_units(
    network: Network, method: Method, units: UnitBatch, task: Task, loss: LossConfig
) -> dict[str, Tensor]:
    parts = list(METHODS[method](network, units, task=task, loss=loss))
    return {name: torch.cat([part[name].detach() for part in parts]) for name in parts[0]}


def _difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Return the first parameter whose gradient of some picture differs, and by how much."""
    whole = torch.stack([_norms(value) for value in expected.values()]).norm(dim=0)  # (B,)
    for name, right in expected.items():
        error, size = _norms(found[name] - right), _norms(right)
        allowed = RELATIVE_ERROR * size + ABSOLUTE_ERROR * whole
        if not bool((error <= allowed).all()):  # also where it is not a number
            worst = float((error / size.clamp(min=1e-30)).max())
            return f"the gradient of {name} is wrong by {worst:.1g} of its norm"
    return None


def _norms(values: Tensor) -> Tensor:
    return values.flatten(1).square().sum(dim=1).sqrt()
