"""Seeds of named uses, derived from one; loads no library."""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a seed in [0, 2^32) for one named use, the same on every machine.

    Two uses of one seed (a head's weights, a site's shuffling) must not share random numbers.
    """
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
