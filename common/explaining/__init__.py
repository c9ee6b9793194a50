"""From a picture to its explanation, and from a folder to its pages."""
