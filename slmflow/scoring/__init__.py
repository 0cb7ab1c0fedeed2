"""Tables in, tables out: every row answered by a registered model, or told why not."""
