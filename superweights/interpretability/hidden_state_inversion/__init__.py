"""How much of the text before it a token remembers, read back from its hidden states."""
