"""Handlers of statements, one file a noun. The rule of the same name in the grammar is the syntax."""
