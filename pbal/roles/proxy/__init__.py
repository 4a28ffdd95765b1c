"""reverse_proxy: relay an exchange to a node of a pool."""
