"""The rows of `make bench`, by topic: a new topic is one file and one line here."""

from importlib import import_module

from row import Row

TOPICS = ("step", "heads", "losses", "pseudo_labels", "translation", "labels", "data")


def rows_of(topic: str) -> tuple[Row, ...]:
    """The rows of a topic."""
    found: tuple[Row, ...] = import_module(f"rows.{topic}").ROWS
    return found
