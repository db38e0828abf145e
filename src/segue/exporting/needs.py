"""What is installed only when asked for."""

from __future__ import annotations

from importlib.util import find_spec

from segue.errors import SegueError


def need(extra: str, *packages: str) -> None:
    """Refuses to start what would end for want of a package.

    Args:
        extra: of Segue's optional dependencies.
        packages: the modules that it brings.

    Raises:
        SegueError: one of them is not installed.

    Example:
        >>> need("export", "no_such_module")
        Traceback (most recent call last):
        segue.errors.SegueError: no_such_module is not installed; pip install 'segue[export]'
    """
    absent = [name for name in packages if find_spec(name) is None]
    if absent:
        fix = f"pip install 'segue[{extra}]'"
        raise SegueError(f"{', '.join(absent)} is not installed", fix=fix)
