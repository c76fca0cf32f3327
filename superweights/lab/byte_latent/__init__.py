"""Byte Latent Transformer (arXiv 2412.09871): bytes in patches that end where the next byte is hard to guess."""
