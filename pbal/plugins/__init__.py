"""Bundled plugins. Each imports pbal.api and no other pbal module."""
