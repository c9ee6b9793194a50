"""A request on its way: open, verify, permit, train, account, guard, mask, sign, store."""
