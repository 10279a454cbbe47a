"""Where what happened is reported to: metrics, webhooks."""
