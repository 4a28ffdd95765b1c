"""HTTP/1.1 without I/O: octets to events and back. Imports nothing else from pbal."""
