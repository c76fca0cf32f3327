"""Which units know a relation, such as capitals, and what is lost without them."""
