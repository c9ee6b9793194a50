"""The training loss and the evaluation loop, the same at a site and at the coordinator."""
