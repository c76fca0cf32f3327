"""What stop words, punctuation and articles are worth: the loss without them."""
