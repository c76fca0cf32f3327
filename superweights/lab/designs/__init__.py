"""Three other ways to build, each beside a Llama: the experiments, small, and the page that compares them."""
