"""The parts of lab models, each in a small file with its source: attentions, gates, norms, activations."""
