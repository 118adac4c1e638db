"""What engines are found by: sockets, addresses and command lines as the kernel prints them. Pure."""
