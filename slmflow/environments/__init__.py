"""Environments beside the main one, each made from a list of requirements."""
