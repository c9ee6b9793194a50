"""What a person or a service starts: init, prepare, the trainer's process, the supervisor."""
