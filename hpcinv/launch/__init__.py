r"""Starting ranks, here or on a cluster, and watching them."""
