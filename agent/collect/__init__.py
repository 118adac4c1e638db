"""The world in, readings out: GPUs through NVML, inference engines through their own metrics pages."""
