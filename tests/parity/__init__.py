"""Parity with the published code, on the four levels of section 7 of the traces' README."""
