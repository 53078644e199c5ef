"""Where gradients come from: torch, a compiled kernel, or a GPU. Nothing is imported here."""
