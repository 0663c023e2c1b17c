"""Where models come from: one source for each kind of registry, all behind `router.models.ports.Source`."""
