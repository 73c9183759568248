"""Grading in batches: problem packages, code-model evaluation, reports."""
