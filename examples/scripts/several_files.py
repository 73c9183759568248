"""Use a module and a table that were placed beside this script."""

import csv
from pathlib import Path

import shapes

with Path("data/shapes.csv").open(encoding="utf-8", newline="") as table:
    areas = {row["name"]: shapes.area(row) for row in csv.DictReader(table)}

print(f"{len(areas)} shapes, {sum(areas.values()):.2f} in all")
for name, area in areas.items():
    print(f"{name:10} {area:8.2f}")
