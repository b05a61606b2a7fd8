"""Local delivery: for mda, and for the workers that become the recipient."""
