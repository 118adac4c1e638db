"""What the simulated library answers, one file per topic: `SYSTEM` and `DEVICE` map NVML functions to answers."""
