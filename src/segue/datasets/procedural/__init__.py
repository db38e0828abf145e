"""Two procedural street worlds: a source in GTA5's layout, a target in Cityscapes'."""

from segue.datasets.procedural.drawing import draw_scene
from segue.datasets.procedural.worlds import SOURCE, TARGET, World
from segue.datasets.procedural.writing import write_worlds

__all__ = ["SOURCE", "TARGET", "World", "draw_scene", "write_worlds"]
