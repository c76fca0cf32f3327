"""TokenFormer (arXiv 2410.23168): linear maps are attention to parameter tokens, of which more can be added."""
