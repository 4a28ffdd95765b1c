"""Text and statements: one line in, one Statement or one Mistake out."""
