"""Getting models here: resolve a reference, fetch what is not here yet, check it, keep it, watch for newer ones."""
