"""Sums under masks (Bonawitz et al. 2017): keys, masks, shares, opening."""
