"""Large Concept Models (arXiv 2412.08821): the next sentence as a vector, predicted or denoised."""
