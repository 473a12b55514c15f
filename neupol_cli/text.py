"""Text from files and file names, made safe to print, to title and to name things with."""

from __future__ import annotations

BYTES = range(0xDC80, 0xDD00)  # how Python holds bytes of a file name that are no UTF-8


def printable(text: str, keep: str = "") -> str:
    """The text with everything escaped that a terminal might obey or cannot show.

    >>> printable("a\\x1b[2J")
    'a\\\\x1b[2J'

    Args:
        text: any, with control characters, directions of writing or halves of characters.
        keep: characters that stay as they are, such as line ends.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code in BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
