"""What every process needs of its surroundings: seeds, log lines, text fit for a terminal."""
