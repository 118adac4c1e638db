"""All of engineroom at once on one machine: simulated GPUs, a real engine, traffic."""
