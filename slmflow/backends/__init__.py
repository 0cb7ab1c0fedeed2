"""Where child runs execute."""
