"""Running a federation: provision, admit, serve, launch, watch, resume."""
