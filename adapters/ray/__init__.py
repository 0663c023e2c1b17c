"""Ray and Ray Serve: placing, restarting and scaling replicas, and knowing where they are."""
