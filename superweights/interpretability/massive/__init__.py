"""Massive activations: where they are born, carried and erased, who writes them, and what they do."""
