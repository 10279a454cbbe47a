"""Side-by-side measurements of llmguard and the proxies people would use instead. See README.md."""
