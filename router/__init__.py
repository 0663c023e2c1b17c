"""The control plane: the domain, the xDS server that drives Envoy, the admin API, the CLI and the supervisor."""
