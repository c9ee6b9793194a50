"""What a logit is called where people read of it.

Light.
"""


def in_words(name: str) -> str:
    """Return a logit's name as a reader says it."""
    return "all grades, one map" if name == "severity" else name.replace("_", " ")
