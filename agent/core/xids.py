"""What an Xid means and what to do about it: a code in, an `XidFact` in plain words out."""

from typing import Literal, get_args

from msgspec import Struct

from agent.core.xid_codes import CODES

XidClass = Literal["application", "hardware", "driver", "info", "unused", "unknown"]

# NVIDIA's word for the immediate action -> what that means for the person on call.
ACTIONS = {
    "RESTART_APP": "Restart the program that was hit; the GPU itself can go on.",
    "RESET_GPU": "Move the work off this GPU, then reset it (nvidia-smi --gpu-reset -i UUID) or reboot the node.",
    "RESTART_BM": "Drain this node and power-cycle it; if the GPU is still missing, have it reseated or replaced.",
    "RESTART_VM": "Restart the virtual machine that this GPU is given to.",
    "IGNORE": "Nothing to do now; look closer only if it repeats.",
    "CONTACT_SUPPORT": "Not expected from a working driver: keep the kernel log, run nvidia-bug-report.sh, ask NVIDIA.",
    "CHECK_MECHANICALS": "Check the power cables and the seat of this GPU.",
    "CHECK_UVM": "Look for other errors of the same moment; if this came alone, report it to NVIDIA.",
    "UPDATE_SWFW": "Bring driver, virtual GPU software and firmware to versions that go together.",
    "WORKFLOW_XID_45": "A clean-up after another error: act on that one; if it came alone, restart the program.",
    "WORKFLOW_XID_48": "Move the work off this GPU and reset it; if Xid 64 or 95 came too, have the GPU checked.",
    "WORKFLOW_NVLINK_ERR": "Stop jobs that span GPUs, reset the GPUs of this link; if it repeats, have them checked.",
    "WORKFLOW_NVLINK5_ERR": "The kernel line says how bad it is: only a fatal link error needs a reset of the GPU.",
    "XID_154": "The driver's recovery action for this GPU has changed: do what it says now (engineroom shows it).",
    "NOT_STATED": "NVIDIA states no action: read the kernel log around it, and report it if it repeats.",
}

_MEANINGS = {
    8: "a channel of the GPU has stopped making progress",
    11: "the program sent the GPU invalid commands",
    13: "a program's kernel made an illegal access or instruction",
    25: "the program sent the GPU invalid commands",
    31: "a program touched GPU memory that is not its own",
    32: "the commands that a program sent were corrupted",
    38: "the driver's firmware has timed out",
    43: "a program's channel was reset after its own error",
    44: "the graphics engine failed while it switched contexts",
    45: "channels were cleaned up after an earlier error, or because a program was ended",
    46: "the GPU has stopped processing",
    48: "an uncorrectable memory error (double bit)",
    54: "the auxiliary power of the board is not connected",
    62: "the GPU's power management controller has halted",
    63: "a memory row was remapped or a page retired",
    64: "a memory row could not be remapped or a page not retired",
    69: "a program used the graphics engine wrongly",
    74: "an NVLink error",
    78: "a virtual GPU could not be started",
    79: "the GPU has fallen off the bus",
    80: "the commands that a program sent were corrupted on their way",
    92: "many corrected memory errors (single bit)",
    94: "a memory error that was contained to one program",
    95: "a memory error that was not contained",
    109: "a program did not let go of the GPU in time (context switch)",
    110: "a security fault of the GPU",
    119: "the GPU's system processor (GSP) did not answer the driver",
    120: "an error in the GPU's system processor (GSP)",
    121: "an error on the link between CPU and GPU (C2C)",
    136: "training of a link has failed",
    137: "an access over NVLink without the right to it",
    140: "an uncorrectable memory error that was not caught",
    143: "the GPU could not be initialised",
    154: "the driver wants something else done to recover this GPU",
    156: "a part of the GPU was retired",
    157: "a part of the GPU could not be retired",
    158: "a fatal time-out inside the GPU",
    167: "a fatal time-out on PCIe",
    168: "a part of the GPU's protected memory is faulty",
    169: "the GPU's security controller has halted",
    171: "details of an uncorrectable error in DRAM (see Xid 48)",
    172: "details of an uncorrectable error in SRAM (see Xid 48)",
    999: "an error for which the driver gave no number",
}

CRITICAL = frozenset({48, 62, 64, 74, 79, 95, 119, 120, 136, 140, 143})
"""The device cannot be trusted until somebody has acted."""

COUNTED_FROM_ZERO = (13, 31, 43, 45, 48, 62, 63, 64, 74, 79, 92, 94, 95, 109, 119, 120, 136, 140, 143, 154)
"""Codes whose counters exist before they first happen, so that `increase()` sees the first one."""

CONTAINED = frozenset({94})
"""Not a program's fault, yet only the program that is named was hit."""


class XidFact(Struct, frozen=True, kw_only=True):
    """One code: `kind` is the class of agent/core/xid_codes.py, `action` NVIDIA's word, `remedy` what to do."""

    xid: int
    mnemonic: str
    kind: XidClass
    action: str
    meaning: str
    critical: bool = False

    @property
    def remedy(self) -> str:
        return ACTIONS[self.action]


def _table() -> dict[int, XidFact]:
    kinds = {str(kind): kind for kind in get_args(XidClass)}
    table = {}
    for row in CODES.split("\n"):
        if not row:
            continue
        number, mnemonic, kind, action = row.split(" ")
        xid = int(number)
        meaning = _MEANINGS.get(xid) or mnemonic.removeprefix("ROBUST_CHANNEL_").replace("_", " ").lower()
        table[xid] = XidFact(
            xid=xid, mnemonic=mnemonic, kind=kinds[kind], action=action, meaning=meaning, critical=xid in CRITICAL
        )
    return table


XIDS = _table()


def fact(xid: int) -> XidFact:
    """What is known of a code; one that is newer than the table is said to be unknown."""
    known = XIDS.get(xid)
    if known is not None:
        return known
    meaning = _MEANINGS.get(xid, "an error that this version of engineroom does not know")
    return XidFact(xid=xid, mnemonic="", kind="unknown", action="NOT_STATED", meaning=meaning)
