"""Evaluations side by side: pure functions of `evaluation.json` and `items.json`."""
