"""Many runs of one config: what differs between them, where they run, what became of them."""
