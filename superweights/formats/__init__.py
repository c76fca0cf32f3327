"""What other programs load. Each format is a file or folder with one verb: checkpoint and plan in, a folder out.

`dense` bakes the rounding into ordinary tensors; `packed` is our own storage, read by transformers after
`import superweights`; `compressed_tensors` is what transformers and vLLM read by themselves; `gguf` what
llama.cpp reads. All are written shard by shard, and appear at once when all is written.
"""
