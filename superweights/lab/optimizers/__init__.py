"""Optimizers of the lab: `OptimizerSpec` says which, `make_optimizer` makes it."""
