"""A C library in the place of the driver's, for tests of the whole reader process."""
