"""Lab models as transformers classes under one model type; `build` makes one from an architecture and a seed."""
