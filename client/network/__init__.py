"""The process with a network and without data: asks the coordinator, hands on, answers."""
