"""Which tokens make a layer's output, and which measure finds those that matter."""
