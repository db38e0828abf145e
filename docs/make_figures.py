"""Draws the figures of docs/systems from the runs of `benchmarks/results.py demo`, seed 0."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

DOCS = Path(__file__).resolve().parent
RUNS = Path("runs/results/demo")
FIGURES = {  # analysis: the runs that it looks at
    "entropy": ("source-only", "local-alignment"),
    "confusion": ("source-only", "local-alignment"),
    "groups": ("grouping",),
    "tsne": ("source-only", "grouping"),
    "translations": ("bdl",),
    "centres": ("coarse-to-fine",),
    "kept": ("coarse-to-fine", "category-adaptive"),
}


def main() -> None:
    """Runs each analysis and keeps its picture, as WebP."""
    with TemporaryDirectory() as folder:
        for name, methods in FIGURES.items():
            runs = [str(RUNS / method / "seed_0") for method in methods]
            words = [sys.executable, "-m", "segue", "analyse", name, *runs, "-o", folder]
            subprocess.run(words, check=True)
            with Image.open(Path(folder, f"{name}.png")) as picture:
                picture.convert("RGB").save(DOCS / "figures" / f"{name}.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
