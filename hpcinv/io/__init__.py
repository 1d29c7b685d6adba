r"""Files: the trajectory store, the analysis, and the atomic writes under both."""
