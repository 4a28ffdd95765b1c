"""Configuration as a value: what is configured, written down without anything that runs."""
