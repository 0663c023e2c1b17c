"""The domain: endpoints, deployments, traffic. Pure: no clock, no I/O, no logging, standard library only."""
