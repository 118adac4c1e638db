"""Simulated GPUs: recorded machines replayed behind the genuine pynvml, so that the genuine reader reads them."""
