"""What coordinator and sites say to each other: its kinds, signatures, and bytes."""
