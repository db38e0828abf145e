"""What becomes of images of more than 8 bits, said where contrast is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator

from segue.checking.report import Report
from segue.datasets.depth import Measured, Range
from segue.datasets.inspection import Inspection

FEW = 128  # of 256 grey levels; where images use fewer, a range would serve them better
CLIPPED = 0.05  # of the values outside a range are worth a warning


def depth_of(
    inspection: Inspection, range_: Range | None, where: str, report: Report
) -> Iterator[tuple[str, str]]:
    """What the deep images of a dataset hold and how they are read, as a row for each depth."""
    if inspection.shallow and not inspection.deep and range_ is not None:
        report.warnings.append(
            f"{where}: range {range_} is not used: images of 8 bits are read as they are"
        )
    for one in inspection.deep:
        told = f"{one.depth}, values {one.low:g} to {one.high:g}"
        if one.shown is None:
            yield "depth", f"{told}, not read: nothing says what white is"
            continue
        by = "" if range_ is None else f" by range {range_}"
        told += f", read as {one.shown[0]} to {one.shown[1]} of 255{by}"
        yield "depth", told
        if one.shown[1] - one.shown[0] + 1 < FEW:
            report.warnings.append(f"{where}: {told}; set {suggested(one)}")
        if one.clipped > CLIPPED:
            report.warnings.append(
                f"{where}: {told}: {100 * one.clipped:.0f} % of the values lie outside; unless "
                f"meant so, set {suggested(one)}"
            )
    if inspection.deep and inspection.shallow:
        depths = " and ".join(one.depth for one in inspection.deep)
        report.warnings.append(
            f"{where}: {inspection.shallow} images are of 8 bits, the others of {depths}; see "
            "that both look alike"
        )


def suggested(one: Measured) -> str:
    """The range of what was found."""
    whole = one.depth.split()[-1] != "float"
    if whole:
        return f"`range: [{math.floor(one.low)}, {math.ceil(one.high)}]`"
    return f"`range: [{one.low:.6g}, {one.high:.6g}]`"
