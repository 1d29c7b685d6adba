r"""What every running job needs: its folder and manifest, its progress, its stop flag."""
