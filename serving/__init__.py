"""The inference tier: what runs inside a replica. Protocol, batching, model life cycle, listener."""
