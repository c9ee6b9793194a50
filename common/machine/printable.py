"""Text from outside, fit for a terminal: nothing in it moves the cursor, hides or turns text."""


def printable(text: str) -> str:
    """Return a text of one line with every character that is not printed written as a number."""
    return "".join(one if one.isprintable() else _numbered(ord(one)) for one in text)


def _numbered(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
