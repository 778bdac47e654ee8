"""How large a picture may be on this machine: its decoded pixels must fit into the memory beside everything else."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

BYTES_PER_PIXEL = 128
"""Of the machine's memory for each pixel of the largest picture. Decoding takes about nine at its peak, and several processes decode."""
LEAST_PIXELS, MOST_PIXELS = 100_000_000, 400_000_000
"""The limit lies between these, however small or large the machine: above all single cameras, and below what takes minutes."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def default_image_pixels() -> int:
    """The largest picture that is decoded where no setting says otherwise."""
    memory_bytes = machine_memory_bytes()
    if memory_bytes is None:
        return LEAST_PIXELS
    return min(max(memory_bytes // BYTES_PER_PIXEL, LEAST_PIXELS), MOST_PIXELS)


def machine_memory_bytes() -> int | None:
    """Of the machine, or of the container that this process is in; None where the system does not say."""
    found = []
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in _CGROUP_LIMITS:
        try:
            found.append(int(Path(name).read_text()))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return min((size for size in found if size > 0), default=None)
