"""The one error that users see."""


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
        text = what if where is None else f"{where}: {what}"
        super().__init__(" ".join((f"{text}; {fix}" if fix else text).split()))
