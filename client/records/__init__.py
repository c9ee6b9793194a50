"""What a site writes down and can prove: the audit log and the privacy ledger."""
