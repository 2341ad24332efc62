"""Long series cut down to what a screen can show: the lowest and the highest point of every column of pixels, so that no spike is lost."""

import base64

import numpy as np

from decoder_lab.report.run import Series


def columns_of(steps: np.ndarray, count: int, logarithmic: bool = False) -> np.ndarray:
    """Returns the int64 column, 0 to count - 1, of each step (rising)."""
    x = np.log10(np.maximum(steps, 1)) if logarithmic else steps.astype(np.float64)
    span = x[-1] - x[0]
    return np.minimum(((x - x[0]) / span * count).astype(np.int64), count - 1) if span > 0 else np.zeros(len(x), np.int64)


def decimate(steps: np.ndarray, values: np.ndarray, count: int) -> Series:
    """Returns points of the series, at most 2 a column, plus those that a logarithmic axis of a quarter of the columns needs.

    The first and the last point are among them, every column's lowest and highest, and, where a column has a value that is not finite,
    one such.
    """
    if len(steps) <= 2 * count:
        return steps, values
    chosen = [np.array([0, len(steps) - 1])]
    for logarithmic, number in ((False, count), (True, max(1, count // 4))):
        column = columns_of(steps, number, logarithmic)
        begins = np.flatnonzero(np.diff(column, prepend=-1))
        finite = np.isfinite(values)
        low = np.lexsort((np.where(finite, values, np.inf), column))
        high = np.lexsort((np.where(finite, -values, np.inf), column))
        chosen += [low[begins], high[begins]]
        broken = np.flatnonzero(~finite)
        chosen.append(broken[np.flatnonzero(np.diff(column[broken], prepend=-1))])
    kept = np.unique(np.concatenate(chosen))
    return steps[kept], values[kept]


def means(steps: np.ndarray, values: np.ndarray, count: int) -> Series:
    """Returns each column's mean step and mean finite value: what a smoothed line is made of."""
    fine = np.isfinite(values)
    steps, values = steps[fine], values[fine]
    if len(steps) <= 2 * count:
        return steps, values
    begins = np.flatnonzero(np.diff(columns_of(steps, count), prepend=-1))
    sizes = np.diff(begins, append=len(steps))
    return np.round(np.add.reduceat(steps, begins) / sizes).astype(np.int64), np.add.reduceat(values, begins) / sizes


def encode(series: Series, exact: bool = True) -> list[str]:
    """Returns [steps, values] in base64: little-endian uint32, and float64 (bit for bit) or, where not `exact`, float32."""
    steps, values = series
    with np.errstate(over="ignore"):
        arrays = steps.astype("<u4"), values.astype("<f8" if exact else "<f4")
    return [base64.b64encode(array.tobytes()).decode() for array in arrays]


def decode(pair: list[str], exact: bool = True) -> Series:
    """The inverse of `encode`."""
    steps, values = map(base64.b64decode, pair)
    return np.frombuffer(steps, "<u4").astype(np.int64), np.frombuffer(values, "<f8" if exact else "<f4").astype(np.float64)
