"""How a sentence writes plain numbers and lists."""

from collections.abc import Sequence


def figure(value: float) -> str:
    """Return a number to two decimals, with a real minus sign."""
    text = f"{value:.2f}".replace("-", "−")
    return text.removeprefix("−") if text == "−0.00" else text


def listed(words: Sequence[str]) -> str:
    """Return words as people list them: ``a``, ``a and b``, ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
