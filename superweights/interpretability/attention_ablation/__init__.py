"""What attention is worth: other weights in its place."""
