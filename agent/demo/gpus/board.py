"""What a simulated GPU has besides its load: links, ECC; what the control file wants of it; and its counters."""

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

_NS = 1_000_000_000


class Board(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Facts of one kind of GPU. None (or no links): it does not say."""

    pcie_generation: int | None = None
    pcie_width: int | None = None
    nvlinks: int = 0
    nvlink_generation: int = 4
    bar1_total_bytes: int | None = None
    bar1_used_bytes: int = 0
    ecc: bool | None = None
    row_remap_banks: int | None = None  # with all spare rows left
    retires_pages: bool = False  # before Ampere; newer ones remap rows
    cores: int | None = None
    throttle_counters: bool = True
    pcie_bits: Literal[32, 64] = 64  # of the byte counters
    average_power: bool = True  # over a second, beside that of the instant (not on GA100 and before Ampere)
    average_power_microseconds: int = 3
    # Assumed, at full load.
    full_pcie_bytes_per_second: float = 2e9
    full_nvlink_bytes_per_second: float = 100e9


class Wishes(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one GPU is to say, whatever its load."""

    utilization_percent: int | None = None  # with nobody on it, this is a trailing window
    encoder_percent: int = 0
    decoder_percent: int = 0
    jpeg_percent: int = 0
    ofa_percent: int = 0
    throttle_mask: int = 0  # bits besides its own
    ecc_errors: dict[str, int] = {}  # as GpuErrors.ecc_errors
    retired_pages: dict[str, int] = {}
    retired_pages_pending: bool = False
    remapped_rows: dict[str, int] = {}
    row_remap_pending: bool = False
    row_remap_failed: bool = False
    row_remap_banks: dict[str, int] | None = None
    recovery_action: int = 0
    pcie_replays: int = 0
    pcie_errors: int = 0  # of each kind
    nvlink_errors: int = 0  # of each kind
    nvlinks_down: list[int] = []
    energy: Literal["right", "stuck", "jumping", "restarted"] = "right"
    power_of_module_only: bool = False  # Grace Hopper
    memory_shared: bool = False  # GB10: it has no memory of its own
    values: dict[str, float | dict[str, float]] = {}  # NVML function -> what it says instead; of a struct, by member
    fields: dict[int, float] = {}  # field -> what it says instead
    field_codes: dict[int, int] = {}  # field -> return code


@dataclass(slots=True)
class Counters:
    """Totals since the driver was loaded."""

    pcie_transmitted: float = 0.0  # bytes
    pcie_received: float = 0.0
    nvlink: float = 0.0  # bytes, each way
    throttled_ns: dict[int, int] = field(default_factory=dict)  # bit of the throttle mask -> time
    energy_ahead: float = 0.0  # joules that a counter which is not right is off
    ticks: int = 0

    def advance(self, seconds: float, board: Board, load: float, mask: int) -> None:
        """By `seconds` of constant load and throttling."""
        self.ticks += 1
        self.pcie_received += seconds * load * board.full_pcie_bytes_per_second
        self.pcie_transmitted += seconds * load * board.full_pcie_bytes_per_second / 4  # results are smaller than work
        if board.nvlinks:
            self.nvlink += seconds * load * board.full_nvlink_bytes_per_second
        bit = 1
        while bit <= mask:
            if mask & bit:
                self.throttled_ns[bit] = self.throttled_ns.get(bit, 0) + round(seconds * _NS)
            bit <<= 1

    def energy(self, true_joules: float, wish: str) -> float:
        """What the energy counter says."""
        if wish == "stuck":
            return 0.015
        if wish == "jumping":
            return true_joules + (1e6 if self.ticks % 2 else 0.0)
        if wish == "restarted":
            self.energy_ahead = self.energy_ahead or true_joules
            return true_joules - self.energy_ahead
        self.energy_ahead = 0.0
        return true_joules
