"""Makes torchvision importable beside a torch build that its compiled operators do not match.

The wheel of the package index is compiled against CUDA; beside a CPU-only torch its operators do
not load and ``import torchvision`` fails while registering shapes for ``nms``. Declaring the
schemas is enough for the Python parts (transforms, and timm, which imports them). Image decoding
and box operators stay unavailable then; Fovea uses neither. Where the real operators load, nothing
is declared. Import this module before anything that imports torchvision.
"""

import importlib.util
from pathlib import Path

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _load_real_operators() -> None:
    """Load torchvision's own library if it is there and fits this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        except OSError:
            # A CUDA build beside a CPU torch: its shared libraries are missing.
            return


def _declare_missing() -> torch.library.Library | None:
    """Declare the schemas that no library brought; return what keeps them alive, or None."""
    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if not missing:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in missing:
        library.define(SCHEMAS[name])  # type: ignore[no-untyped-call]
    return library


_load_real_operators()
DECLARED = _declare_missing()  # must outlive the process's use of torchvision
