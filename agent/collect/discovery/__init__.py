"""Processes and pods of this node in, engines to watch out: for the engines that nobody configured."""
