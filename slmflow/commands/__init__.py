"""Entry points that are not steps: one thin module each."""
