"""What devices can do, from their makers' data sheets: the yardstick of utilisation and of plans.

Sources: NVIDIA's data sheets (dense figures, SXM where nothing is said), Google Cloud's pages on TPU v4, v5e, v5p and v6e.
"""

import dataclasses

GB, GIB = 1e9, 2.0**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      name: part of what jax calls it (`device_kind`); upper and lower case are the same.
      flops: dense bf16 FLOP/s.
      memory: bytes.
      bandwidth: bytes/s to and from that memory.
      link: bytes/s that it can send to the devices near it, over all its links; 0: none.
    """

    name: str
    flops: float
    memory: float = 0.0
    bandwidth: float = 0.0
    link: float = 0.0


CHIPS = (  # the first whose name is found counts
    Chip("TPU v4", 275e12, 32 * GIB, 1228 * GB, 300 * GB),
    Chip("TPU v5 lite", 197e12, 16 * GIB, 819 * GB, 200 * GB),
    Chip("TPU v5e", 197e12, 16 * GIB, 819 * GB, 200 * GB),
    Chip("TPU v5", 459e12, 95 * GIB, 2765 * GB, 600 * GB),  # v5p
    Chip("TPU v6 lite", 918e12, 32 * GIB, 1640 * GB, 448 * GB),
    Chip("TPU v6e", 918e12, 32 * GIB, 1640 * GB, 448 * GB),
    Chip("GB200", 2500e12, 186 * GB, 8000 * GB, 900 * GB),
    Chip("B200", 2250e12, 180 * GB, 8000 * GB, 900 * GB),
    Chip("GH200", 989.4e12, 96 * GB, 4000 * GB, 450 * GB),
    Chip("H200", 989.4e12, 141 * GB, 4800 * GB, 450 * GB),
    Chip("H100 PCIe", 756e12, 80 * GB, 2000 * GB, 64 * GB),
    Chip("H100 NVL", 835e12, 94 * GB, 3900 * GB, 300 * GB),
    Chip("H100", 989.4e12, 80 * GB, 3350 * GB, 450 * GB),
    Chip("H800", 989.4e12, 80 * GB, 3350 * GB, 200 * GB),
    Chip("A100", 312e12, 80 * GB, 2039 * GB, 300 * GB),
    Chip("A800", 312e12, 80 * GB, 2039 * GB, 200 * GB),
    Chip("L40S", 362e12, 48 * GB, 864 * GB),
    Chip("L40", 181e12, 48 * GB, 864 * GB),
    Chip("L4", 121e12, 24 * GB, 300 * GB),
    Chip("A10G", 70e12, 24 * GB, 600 * GB),
    Chip("A10", 125e12, 24 * GB, 600 * GB),
    Chip("RTX 4090", 165.2e12, 24 * GB, 1008 * GB),
    Chip("RTX 3090", 71e12, 24 * GB, 936 * GB),
)


def find(device_kind: str) -> Chip | None:
    """Returns the chip that jax calls so, None for one that is not in the table, such as a CPU."""
    return next((chip for chip in CHIPS if chip.name.lower() in device_kind.lower()), None)
