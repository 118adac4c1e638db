"""Pure values and rules: no await, no clock, no IO. `now` is always an argument."""
