"""NVML in, `GpuSnapshot`s out: a supervised child process owns the driver's library, this process stays clean."""
