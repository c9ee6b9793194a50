"""Studies that answer one question each: looks, explanations, attacks."""
