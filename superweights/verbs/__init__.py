"""The public verbs, one file each: names, paths and options in; a Record, or a written folder, out."""
