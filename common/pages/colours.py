"""The colours of a map: viridis, which those who confuse red and green read as well as others.

Its lightness grows from end to end, so that it survives a black-and-white printer (Smith and van
der Walt 2015, https://bids.github.io/colormap/). Given here as colours at equal distances, for the
page's script and for the still picture alike; between them both interpolate.
"""

import numpy as np
from numpy.typing import NDArray

# From low to high, six digits each. Within two of 255 steps of matplotlib's table everywhere.
_VIRIDIS = (
    "440154470d6048186a482374472d7b4536814240863f49893b528b375a8d33638d"
    "2f6a8e2c728e297a8e26818e23898e21908c1f988b1f9f8821a68528ae8031b57b"
    "3ebc744cc26c5dc9636ece5882d34c96d83fabdc32c0df24d5e21aeae51afde725"
)
VIRIDIS = tuple(_VIRIDIS[at : at + 6] for at in range(0, len(_VIRIDIS), 6))
# A map covers the more, the stronger it is: what does not speak leaves the picture as it was.
COVER_EXPONENT = 0.6


def coloured(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the colours (..., 3), 0 to 255, of values (...) from 0 to 1."""
    anchors = np.array([[int(one[at : at + 2], 16) for at in (0, 2, 4)] for one in VIRIDIS])
    places = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(values, places, channel) for channel in anchors.T], axis=-1)


def cover(values: NDArray[np.float64], *, opacity: float) -> NDArray[np.float64]:
    """Return how much of the picture values from 0 to 1 hide, 0 to ``opacity``."""
    return opacity * np.asarray(values, dtype=np.float64) ** COVER_EXPONENT
