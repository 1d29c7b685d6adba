r"""Observations: the table every method sees, and networks that draw one from a known truth."""
