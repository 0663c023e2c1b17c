"""The ways in which Ray Serve is set up: none is best for everything. Imports nothing: Ray takes seconds to import."""

# variant, also its route -> (how long a batch is held open in seconds, whether requests are logged)
RAY_SERVE_VARIANTS = {
    "eager": (0.0, False),  # the shortest latency
    "waiting": (0.002, False),  # fuller batches
    "logging": (0.0, True),  # with an access log, as Crossfade always has one
}
