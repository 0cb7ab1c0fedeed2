"""The measures, as functions of arrays, and the reference that they compare with."""
