"""The tests. A package, so that they share `tests.samples`."""
