"""Reproxying: a node says in its response's head what the client gets instead, and pbal sends that."""
