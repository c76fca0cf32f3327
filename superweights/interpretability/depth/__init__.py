"""What each block's depth is worth: how far it turns the stream, and what is lost without it."""
