"""Pieces of different sizes put into rows of one length."""

import numpy as np


def best_fit(sizes_P: np.ndarray, length: int) -> np.ndarray:
    """Puts each size, in turn, into the fullest row that still has room for it; returns the row of each, int64 [P].

    The room left in open rows is kept as the set bits of one integer, so that the tightest fit is found in a few machine operations.
    """
    rows_with_room: list[list[int]] = [[] for _ in range(length + 1)]
    rooms, num_rows, chosen = 0, 0, []
    for size in sizes_P.tolist():
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = length, num_rows
            num_rows += 1
        chosen.append(row)
        rows_with_room[room - size].append(row)
        if room > size:
            rooms |= 1 << (room - size)
    return np.asarray(chosen, np.int64)
