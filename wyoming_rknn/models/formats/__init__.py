"""On-disk layouts of models, one module each."""
