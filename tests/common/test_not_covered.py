"""What epsilon does not cover is one list, short in a terminal and in full in a report."""

from common.not_covered import KINDS, NOT_COVERED, NOT_COVERED_LINE


def test_the_line_names_every_kind_that_a_report_explains() -> None:
    assert NOT_COVERED_LINE == (
        "Not covered: data cards, numbers of pictures, validation measurements, times, releases "
        "without noise, the same patient elsewhere."
    )
    assert all(kind in NOT_COVERED_LINE for kind in KINDS)
    assert tuple(KINDS.values()) == NOT_COVERED
