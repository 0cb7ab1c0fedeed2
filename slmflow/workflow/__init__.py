"""Runs: what they need, what they leave, and who launches them."""
