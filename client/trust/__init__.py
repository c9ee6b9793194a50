"""Whom a site believes: pinned authority and run keys, pinned sites, signed requests."""
