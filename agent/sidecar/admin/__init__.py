"""The sidecar's own address: metrics, probes, dead letters."""
