"""What each inference server's pages mean: one pure file per server, none of them touches the network."""
