"""The whole jobs, one public function per file: names, paths and options in, a typed result out."""
