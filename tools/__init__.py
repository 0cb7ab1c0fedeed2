"""What `make` runs: installation, the browser of the tests, the lock. None of it is part of the product."""
