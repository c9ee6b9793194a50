"""Words for probabilities follow one scale without gaps or overlaps, and the figure beside them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.explanation.confidence_words import (
    SCALE,
    likelihood_words,
    percent_words,
    whole_percent,
)

probabilities = st.floats(min_value=0, max_value=1)

# Written down from the scale of the IPCC's fourth report, not from the code.
IPCC = {
    "exceptionally unlikely": range(1),
    "very unlikely": range(1, 10),
    "unlikely": range(10, 33),
    "about as likely as not": range(33, 67),
    "likely": range(67, 90),
    "very likely": range(90, 100),
    "virtually certain": range(100, 101),
}


def test_every_whole_percent_has_the_words_of_the_published_scale() -> None:
    for words, percents in IPCC.items():
        for percent in percents:
            assert likelihood_words(percent / 100) == words


def test_the_scale_has_no_overlap_and_starts_at_nothing() -> None:
    leasts = [least for least, _ in SCALE]
    assert leasts[0] == 0
    assert leasts == sorted(set(leasts))
    assert len({words for _, words in SCALE}) == len(SCALE)


@given(probabilities, probabilities)
def test_more_probable_is_never_worded_as_less(one: float, other: float) -> None:
    order = [words for _, words in SCALE]
    low, high = sorted((one, other))
    assert order.index(likelihood_words(low)) <= order.index(likelihood_words(high))


@given(probabilities)
def test_the_figure_is_near_and_claims_no_certainty(value: float) -> None:
    text = percent_words(value)

    assert text not in ("0 %", "100 %")
    if not text.startswith(("under", "over")):
        assert abs(int(text.removesuffix(" %")) - 100 * value) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "under 1 %"), (0.0049, "under 1 %"), (0.005, "1 %"), (0.285, "29 %"), (0.664, "66 %"),
     (0.994, "99 %"), (0.996, "over 99 %"), (1.0, "over 99 %")],
)  # fmt: skip
def test_known_figures(value: float, text: str) -> None:
    assert percent_words(value) == text


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        whole_percent(value)
