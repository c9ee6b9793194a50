"""How many sites find a model good enough: each by its own measurement, told as a count. Pure."""

from collections.abc import Mapping

from server.record.summary import FloorEntry


def floor_entry(
    evaluations: Mapping[str, Mapping[str, float | None]], floor: Mapping[str, float]
) -> FloorEntry | None:
    """Return how many sites reach every part of the floor, of those that could tell.

    Args:
        evaluations: By site, what it found of one model.
        floor: ``federation.site_floor``, metric → the least that a site should find.

    A site where a part is not defined cannot tell, exactly as in a secure sum
    (common/secure_sum/contribution.py). None without a floor, and where no site could tell.
    """
    judged = [
        [
            (value, least)
            for metric, least in floor.items()
            if (value := found.get(metric)) is not None
        ]
        for found in evaluations.values()
    ]
    whole = [pairs for pairs in judged if len(pairs) == len(floor)] if floor else []
    if not whole:
        return None
    above = sum(all(value >= least for value, least in pairs) for pairs in whole)
    return FloorEntry(above=above, sites=len(whole))
