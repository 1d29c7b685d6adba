r"""Evaluation: scores that merge, confidence intervals, figures and the report."""
