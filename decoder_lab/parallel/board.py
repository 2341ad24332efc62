"""A few numbers of every process, read by all of them one step later: who wants to stop, and what each of them waited for.

It costs one small collective program a step, queued before the step itself, so that it is done when the step before is and nobody waits for
it; and as it stands at the same place of the queue everywhere, all processes read the same numbers at the same step.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from decoder_lab.parallel import processes


class Board:
    """`exchange` gives this process's numbers and returns those that all gave one call before, [processes, numbers] float32.

    Args:
      mesh: of all devices of all processes.
      width: numbers a process.
    """

    def __init__(self, mesh: Mesh, width: int):
        self._width = width
        self._posted: jax.Array | None = None
        if processes.count() == 1:
            return
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._spread = jax.jit(lambda x_DK: x_DK, out_shardings=NamedSharding(mesh, PartitionSpec()))
        of_device = [device.process_index for device in mesh.devices.flat]
        self._rows = [of_device.index(process) for process in range(processes.count())]
        self._shape = (mesh.size, width)

    def exchange(self, values: Sequence[float]) -> np.ndarray | None:
        """All processes call it at the same places of a run; the first call returns None. Of one process: what it gives."""
        row = np.asarray(values, np.float32).reshape(1, self._width)
        if processes.count() == 1:
            return row
        before = self._posted
        self._posted = self._spread(jax.make_array_from_callback(self._shape, self._sharding, lambda index: self._repeated(row, index)))
        return None if before is None else np.asarray(before.addressable_data(0))[self._rows]

    def _repeated(self, row: np.ndarray, index: tuple) -> np.ndarray:
        return np.broadcast_to(row, (len(range(*index[0].indices(self._shape[0]))), self._width))
