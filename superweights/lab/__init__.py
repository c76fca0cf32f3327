"""Models grown here: designs, measured alike, and judged."""
