"""No models: the ledger's tables have migrations of their own. Django sends `post_migrate` only for apps with this
module, and that is when they are brought up to date."""
