"""uvloop protocols and nothing of policy: who connects, which octets flow, when they pause."""
