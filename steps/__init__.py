"""The entry points of the card, one thin module each."""
