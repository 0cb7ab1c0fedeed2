"""Production traces, redacted, asked again of the champion and a challenger; and what drifted."""
