"""What a phantom is: a picture with exact lesion masks, its scanner and its shortcut."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.errors import ConfigError


@dataclass(frozen=True)
class Lesion:
    """All places of one picture that show one kind of lesion."""

    label: str  # one of task.logit_names: a finding, ``severity``, or ``malignant``
    name: str  # what it is: nodule, microaneurysm, tumour, …
    mask: np.ndarray  # (S, S) bool, exact: drawn together with the lesion


@dataclass(frozen=True)
class PhantomCase:
    """One phantom picture beside the same picture without its lesions and without its marker.

    The three pictures share anatomy, scanner and noise, so that their differences are exactly
    the lesions and exactly the marker.
    """

    image: np.ndarray  # (S, S, C) uint8; C = 1 chest, 3 fundus and histology
    targets: tuple[float, ...]  # length task.num_logits, in the order of task.logit_names
    lesions: tuple[Lesion, ...]  # empty for a normal picture
    without_lesion: np.ndarray  # like image, lesions healed, marker kept
    without_marker: np.ndarray  # like image, lesions kept; equal to image when has_marker is False
    has_marker: bool
    marker: np.ndarray  # (S, S) bool, where the marker was drawn
    anatomy: np.ndarray  # (S, S) bool: lungs, retina, or tissue; one per patient and size


@dataclass(frozen=True)
class Shortcut:
    """A marker that follows the diagnosis instead of the disease.

    "Positive" means any finding (multi-label), grade 2 or higher (ordinal: referable), the
    positive class (binary). 0.5 makes the marker say nothing, 1.0 makes it the label.
    """

    kind: Literal["corner-marker"] = "corner-marker"
    agreement: float = 0.9  # P(marker present = picture positive), in [0, 1]

    def __post_init__(self) -> None:
        """Refuse a kind that is not drawn and an agreement that is no probability."""
        if self.kind != "corner-marker":
            raise ConfigError(f"shortcut.kind must be 'corner-marker', got {self.kind!r}.")
        if not 0.0 <= self.agreement <= 1.0:
            raise ConfigError(
                f"shortcut.agreement must be in [0, 1], got {self.agreement}. "
                "It is P(marker present = picture positive); 0.5 says nothing about the label."
            )


@dataclass(frozen=True)
class Scanner:
    """How one site's device and laboratory change a picture; the defaults change almost nothing.

    The ranges are those that ``scanner_for`` draws from at strength 1.
    """

    contrast: float = 1.0  # slope about mid-grey, 0.75 to 1.25
    brightness: float = 0.0  # shift of mid-grey, black and white stay, -0.12 to 0.12
    gamma: float = 1.0  # exponent on [0, 1] intensities, 0.75 to 1.33
    noise: float = 0.008  # sd of Gaussian noise on [0, 1] intensities, 0.008 to 0.038
    blur_px: float = 0.0  # sd of the Gaussian blur, pixels of the picture, 0 to 0.7
    illumination: float = 0.0  # relative fall of light from edge to edge, 0 to 0.3
    illumination_angle_deg: float = 0.0  # direction of that fall, 0 to 360
    # Histology: factors on the haematoxylin and eosin densities. Fundus: factors on the red and
    # blue channels. Chest: no colour, no effect. 0.75 to 1.25 each.
    stain: tuple[float, float] = (1.0, 1.0)


def scanner_for(site: str, *, strength: float, seed: int) -> Scanner:
    """Return the scanner of a site, the same for the same site name, strength and seed.

    Args:
        site: Name of the site.
        strength: How far sites differ, in [0, 1]; 0 gives every site the default scanner.
        seed: Seed of the run, at least 0.

    Raises:
        ConfigError: A strength outside [0, 1] or a negative seed.
    """
    if not 0.0 <= strength <= 1.0:
        raise ConfigError(f"scanner strength must be in [0, 1], got {strength}.")
    if seed < 0:
        raise ConfigError(f"scanner seed must be at least 0, got {seed}.")
    digest = hashlib.sha256(site.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
    # Never near zero: a site must differ visibly, not only in its name.
    signs = rng.choice([-1.0, 1.0], size=5)
    shift = strength * signs * rng.uniform(0.3, 1.0, size=5)
    extra = strength * rng.uniform(0.0, 1.0, size=3)
    return Scanner(
        contrast=float(1.0 + 0.25 * shift[0]),
        brightness=float(0.12 * shift[1]),
        gamma=float(1.333 ** shift[2]),
        noise=float(0.008 + 0.03 * extra[0]),
        blur_px=float(0.7 * extra[1]),
        illumination=float(0.3 * extra[2]),
        illumination_angle_deg=float(rng.uniform(0.0, 360.0)),
        stain=(float(1.0 + 0.25 * shift[3]), float(1.0 + 0.25 * shift[4])),
    )
