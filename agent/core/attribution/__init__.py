"""Who holds and who uses a GPU: texts of kubelet, the container runtime and /proc in, names out. Pure."""
