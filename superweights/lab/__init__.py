"""Models grown here: parts, optimizers, recipes, training, comparison."""
