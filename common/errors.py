"""Every error Fovea raises on purpose; each docstring says what the reader can do about it."""


class FoveaError(Exception):
    """Something expected to go wrong did; the message names it and the remedy."""


class ConfigError(FoveaError):
    """A YAML file or option is wrong: correct the key that the message names."""


class DataError(FoveaError):
    """A table, picture or mask cannot be used: mend the file and row that the message names."""


class ModelError(FoveaError):
    """A network cannot be built or loaded as asked: choose another encoder or weights file."""


class ExplanationError(FoveaError):
    """A method cannot explain this answer of this network: show the reason, use another method."""


class WireError(FoveaError):
    """A message does not keep the contract: both ends must run the same Fovea version."""


class AggregationError(FoveaError):
    """No usable updates came: look at the refusals listed in the message."""


class RunError(FoveaError):
    """A federation could not run to its end: the message names the round and the site."""


class SiteError(FoveaError):
    """A site's own program broke down: its log at the site says where."""


class TrustError(FoveaError):
    """A signature, key or certificate is not the one that was pinned: ask who sent it."""


class AuditError(FoveaError):
    """The audit log is damaged or was changed: keep the file, and find out who had access to it."""


class LedgerError(AuditError):
    """The privacy ledger was changed, is damaged (bring the backup back) or cannot be written."""
