"""Probabilities in words, on one stated scale, and as a figure that cannot say more than it knows.

The scale is the IPCC's for likelihood, in the form without overlaps of its fourth report
(Communication of uncertainty, Working Group II, 2007; Mastrandrea et al. 2010, Guidance Note on
Consistent Treatment of Uncertainties, table 1, words them the same). Readers take such words more
alike when the figure stands beside them (Budescu et al. 2014, doi:10.1038/nclimate2194), so a
sentence always gives both. Words follow the whole percent that is shown, so that a reader can
hold one against the other.
"""

# Words and the lowest whole percent they are used from; each holds up to the next.
SCALE: tuple[tuple[int, str], ...] = (
    (0, "exceptionally unlikely"),  # below 1 %
    (1, "very unlikely"),
    (10, "unlikely"),
    (33, "about as likely as not"),
    (67, "likely"),  # above 66 %
    (90, "very likely"),
    (100, "virtually certain"),  # above 99 %
)


def whole_percent(probability: float) -> int:
    """Return a probability as the nearest whole percent, halves up, 0..100.

    Raises ValueError outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability lies in [0, 1], got {probability}.")
    # In floating point 0.285 * 100 is 28.499…; a written number has six digits.
    return int(round(probability * 100, 6) + 0.5)


def percent_words(probability: float) -> str:
    """Return a probability as a figure, e.g. ``83 %``; never ``0 %`` nor ``100 %``."""
    percent = whole_percent(probability)
    if percent <= 0:
        return "under 1 %"
    return "over 99 %" if percent >= 100 else f"{percent} %"


def likelihood_words(probability: float) -> str:
    """Return a probability in words, from the same whole percent that ``percent_words`` shows."""
    percent = whole_percent(probability)
    return next(words for least, words in reversed(SCALE) if percent >= least)
