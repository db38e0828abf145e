"""Two procedural street worlds: a source in GTA5's layout, a target in Cityscapes'."""

from segue.demo.worlds.drawing import draw_scene
from segue.demo.worlds.worlds import SOURCE, TARGET, World
from segue.demo.worlds.writing import write_worlds

__all__ = ["SOURCE", "TARGET", "World", "draw_scene", "write_worlds"]
