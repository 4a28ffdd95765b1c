"""Files as answers: found, opened, and sent, with conditions and ranges. The disk never holds up the loop."""
