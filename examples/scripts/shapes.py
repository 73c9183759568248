"""Areas of shapes: a module for `several_files.py`."""

import math


def area(row: dict[str, str]) -> float:
    """Give the area of the shape that a row of the table describes."""
    width, height = float(row["width"]), float(row["height"])
    match row["kind"]:
        case "rectangle":
            return width * height
        case "ellipse":
            return math.pi * width * height / 4
        case kind:
            raise ValueError(f"no shape is called {kind!r}")
