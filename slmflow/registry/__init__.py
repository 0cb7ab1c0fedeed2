"""Thresholds, versions and aliases of the Model Registry."""
