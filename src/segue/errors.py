"""The one error that users see."""

import re


class SegueError(Exception):
    """A mistake that the user can mend, told in one line: where, what, and what to do.

    Args:
        what: what is wrong.
        where: the file, setting or command that it is about.
        fix: what to do about it.

    Example:
        >>> print(SegueError("no images", where="data/train", fix="check `root`"))
        data/train: no images; check `root`
    """

    def __init__(self, what: str, *, where: object = None, fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        # A name keeps its spaces, so that it can be found; of messages lines are joined.
        place = "" if where is None else f"{printable(str(where))}: "
        told = re.sub(r"\s*[\r\n]\s*", " ", f"{what}; {fix}" if fix else what).strip()
        super().__init__(place + printable(told))


def printable(text: str) -> str:
    """The text with all that would break a line or steer a terminal written as an escape.

    Example:
        >>> printable("two\\nlines \\x1b[31m, Köln 1.png")
        'two\\\\nlines \\\\x1b[31m, Köln 1.png'
    """
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode()
        for sign in text
    )
