"""Grading: submissions against the tests of a problem package, each run in a jail."""
