"""GGUF files: read strictly, and what their architectures, blocks and tokenizers mean elsewhere."""
