from .allocator import keep_freed_memory as keep_freed_memory
from .cores import usable_cores as usable_cores
from .devices import (
    DeviceClock as DeviceClock,
    Flight as Flight,
    HostCopy as HostCopy,
    available_memory_bytes as available_memory_bytes,
    exact_numerics as exact_numerics,
    free_memory_bytes as free_memory_bytes,
    is_out_of_memory as is_out_of_memory,
    on_device as on_device,
    pick_device as pick_device,
    to_device as to_device,
    transferred as transferred,
)
from .seeding import seeded as seeded
from .timings import DECODING as DECODING, Bound as Bound, Timings as Timings
