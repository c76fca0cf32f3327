"""Our own storage: codes packed to the bit; transformers reads it after `import superweights`."""
